//! Lists of packed clusters, with real machines: what is written, and how each of the things that can go wrong is answered.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use instar_abi::block::{UnpackRecord, codec, status};
use instar_abi::job::operation;
use instar_abi::unpack::UNPACKER_MEMORY_BYTES;
use vm_memory::GuestAddress;

use super::super::backend::Backend;
use super::super::executor::{Executor, Outcome};
use super::super::request::{Action, Answer, Request};
use super::super::unpackers::Unpackers;
use super::{ANSWER, backend, contents, file, pattern, ram};
use crate::jail::Runner;
use crate::session::{GuestProgram, prepare_unpackers};
use crate::vm::{Platform, Prepared};

#[path = "../../../tests/common/kvm.rs"]
mod kvm;
use kvm::without_kvm;

const CLUSTER_BYTES: u32 = 512;
/// A cluster that deflate stores as it is.
const PACKED_BYTES: u32 = 5 + CLUSTER_BYTES;

/// Clusters one behind the other, each packed.
fn packed(clusters: &[u8]) -> Vec<u8> {
    let [low, high, ..] = CLUSTER_BYTES.to_le_bytes();
    let header = [1, low, high, !low, !high];
    clusters.chunks(CLUSTER_BYTES as usize).flat_map(|cluster| [&header, cluster].concat()).collect()
}

fn record(cluster: u32, skip_bytes: u32, length_bytes: u32, target_offset_bytes: u64) -> UnpackRecord {
    UnpackRecord {
        target_offset_bytes,
        source_offset_bytes: u64::from(cluster * PACKED_BYTES),
        source_device: 0,
        packed_bytes: PACKED_BYTES,
        cluster_bytes: CLUSTER_BYTES,
        skip_bytes,
        length_bytes,
        codec: codec::DEFLATE,
    }
}

fn unpackers(platform: &Platform, prepared: Vec<Prepared>) -> Unpackers {
    let machines = prepared.into_iter().map(|machine| machine.complete(platform, 0, false).expect("a machine"));
    Unpackers::new(machines.collect(), Duration::from_secs(60))
}

fn execute(backends: &[Backend<'_>], own: usize, unpackers: &Unpackers, records: Vec<UnpackRecord>) -> Outcome {
    let (ram, copied_bytes) = (ram(), AtomicU64::new(0));
    let unpackers = Some(unpackers);
    let executor =
        Executor { backends, own, memory: ram.dma(), throttle: None, unpackers, copied_bytes: &copied_bytes };
    let action = Action::Unpack(records);
    let answer = Answer::Completion(GuestAddress(ANSWER));
    executor.execute(&[Request { head: 0, action, answer, writable_bytes: 16 }], &mut |_| ())[0]
}

#[test]
fn clusters_and_parts_of_them_come_out_and_failures_leave_the_machine_whole() {
    if without_kvm("clusters_and_parts_of_them_come_out_and_failures_leave_the_machine_whole") {
        return;
    }
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    // One machine is enough, and the one that is left must still work after each failure.
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/unpack.bin"));
    let machine = Prepared::new(&platform, program, UNPACKER_MEMORY_BYTES).expect("a machine");
    let unpackers = unpackers(&platform, vec![machine]);
    let disk = pattern(40 * CLUSTER_BYTES as usize, 3);
    let (source, target) = (file(&packed(&disk)), file(&[9; 100]));
    let backends = [backend(&source, false), backend(&target, true)];
    let errno = |own, record| {
        let outcome = execute(&backends, own, &unpackers, vec![record]);
        assert_eq!(outcome.status, status::IO_ERROR);
        outcome.errno
    };
    assert_eq!(errno(1, UnpackRecord { codec: 9, ..record(0, 0, 1, 0) }), libc::EBADMSG);
    assert_eq!(errno(1, UnpackRecord { codec: codec::ZSTD, ..record(0, 0, 1, 0) }), libc::EBADMSG);
    assert_eq!(errno(1, UnpackRecord { source_offset_bytes: 1 << 40, ..record(0, 0, 1, 0) }), libc::EBADMSG);
    assert_eq!(errno(1, UnpackRecord { source_offset_bytes: u64::MAX, ..record(0, 0, 1, 0) }), libc::EFBIG);
    assert_eq!(errno(1, UnpackRecord { source_device: 2, ..record(0, 0, 1, 0) }), libc::ENODEV);
    assert_eq!(errno(1, record(0, 0, 1, u64::MAX)), libc::EFBIG);
    assert_eq!(errno(0, record(0, 0, 1, 0)), libc::EACCES);
    assert_eq!(contents(&target), [9; 100]);

    let mut records: Vec<UnpackRecord> =
        (0..40).map(|cluster| record(cluster, 0, CLUSTER_BYTES, 512 + u64::from(cluster * CLUSTER_BYTES))).collect();
    records.extend([record(5, 100, 12, 40_000), record(5, 7, 100, 40_012), record(6, 0, 1, 39_999)]);
    assert_eq!(execute(&backends, 1, &unpackers, records).status, status::OK);
    let mut expected = [&[9; 100][..], &[0; 412], &disk].concat();
    expected.resize(39_999, 0);
    expected.push(disk[6 * 512]);
    expected.extend_from_slice(&disk[5 * 512 + 100..5 * 512 + 112]);
    expected.extend_from_slice(&disk[5 * 512 + 7..5 * 512 + 107]);
    assert!(contents(&target) == expected);
}

#[test]
fn a_machine_that_does_something_else_is_given_up() {
    if without_kvm("a_machine_that_does_something_else_is_given_up") {
        return;
    }
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let info = GuestProgram::embedded(operation::INFO).expect("a program");
    let machine = info.prepare(&platform, UNPACKER_MEMORY_BYTES).expect("a machine");
    let unpackers = unpackers(&platform, vec![machine]);
    let (source, target) = (file(&packed(&[7; 512])), file(b""));
    let backends = [backend(&source, false), backend(&target, true)];
    let first = execute(&backends, 1, &unpackers, vec![record(0, 0, 512, 0)]);
    assert_eq!((first.status, first.errno), (status::IO_ERROR, libc::EIO));
    let second = execute(&backends, 1, &unpackers, vec![record(0, 0, 512, 0)]);
    assert_eq!((second.status, second.errno), (status::IO_ERROR, libc::ENODEV));
    assert_eq!(contents(&target), b"");
}

#[test]
fn there_are_machines_where_there_are_processors_and_kvm() {
    if without_kvm("there_are_machines_where_there_are_processors_and_kvm") {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let expected = if processors < 2 { 0 } else { processors.min(4) };
    assert_eq!(prepare_unpackers(&platform).len(), expected);
    assert!(prepare_unpackers(&Platform::Process).is_empty());
}
