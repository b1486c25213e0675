//! A guest program that attacks its host, for tests only. The job's operation number says which attack; an attack that
//! the host lets pass ends in a panic that says "got away with it". Some numbers check honest work instead.
#![no_std]
#![no_main]

extern crate alloc;

mod checks;
mod faults;
mod queue;
mod requests;

use instar_abi::job::JobHeader;
use instar_abi::report::{REPORT_MAGIC, ReportHeader};
use instar_abi::wire::Wire;
use instar_exec::Storage;

instar_runtime::program!(run);

/// First numbers of the kinds of attacks.
const QUEUE: u32 = 100;
const REQUESTS: u32 = 200;
const REPORTS: u32 = 300;
const CHECKS: u32 = 400;

fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    let attack = JobHeader::get(job).operation;
    match attack {
        ..QUEUE => faults::attack(attack, job),
        QUEUE..REQUESTS => queue::attack(attack - QUEUE),
        REQUESTS..REPORTS => requests::attack(attack - REQUESTS, storage),
        REPORTS..CHECKS => return lie(attack - REPORTS, report),
        _ => {
            checks::check(attack - CHECKS, storage);
            return lie(HONEST, report);
        }
    }
    panic!("got away with it");
}

/// Not a lie: the tests make sure that the others fail for the right reason.
const HONEST: u32 = 5;

fn lie(attack: u32, report: &mut [u8]) {
    let mut header = ReportHeader {
        magic: REPORT_MAGIC,
        outcome: 0,
        error_kind: 0,
        error_layer: u32::MAX,
        errno: i32::MIN,
        text_length_bytes: 0,
        payload_length_bytes: 0,
        text: [0xff; 1024],
    };
    match attack {
        0 => header.magic = 1,
        1 => header.outcome = 2,
        2 => header.text_length_bytes = 1025,
        3 => header.payload_length_bytes = u32::MAX,
        4 => header.payload_length_bytes = 4 << 20,
        HONEST => {}
        _ => return,
    }
    header.put(report);
}
