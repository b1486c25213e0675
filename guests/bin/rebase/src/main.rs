//! The guest program of `instar rebase`: job in, report out. It answers that this version does not rebase.
#![no_std]
#![no_main]

use instar_abi::report::{REPORT_MAGIC, ReportHeader, error_kind, outcome};
use instar_abi::wire::Wire;
use instar_exec::Storage;

const TEXT: &[u8] = b"this version of instar cannot rebase";

fn run(_job: &[u8], _storage: &mut dyn Storage, report: &mut [u8]) {
    let mut text = [0; 1024];
    text[..TEXT.len()].copy_from_slice(TEXT);
    let header = ReportHeader {
        magic: REPORT_MAGIC,
        outcome: outcome::FAILED,
        error_kind: error_kind::UNSUPPORTED,
        error_layer: 0,
        errno: 0,
        text_length_bytes: TEXT.len() as u32,
        payload_length_bytes: 0,
        text,
    };
    header.put(report);
}

instar_runtime::program!(run);
