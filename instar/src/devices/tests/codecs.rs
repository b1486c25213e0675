//! Clusters and packed ones in real machines: what comes out, and how each of the things that can go wrong is answered.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use instar_abi::block::{UnpackRecord, codec, status};
use instar_abi::codec_machine::CODEC_MEMORY_BYTES;
use instar_abi::job::operation;
use instar_abi::memory::HEAP_START;
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::Backend;
use super::super::codec_machines::CodecMachines;
use super::super::executor::{Executor, Outcome};
use super::super::pack::Clusters;
use super::super::request::{Action, Answer, Request};
use super::{ANSWER, DATA, backend, contents, file, pattern, ram, read_bytes};
use crate::jail::Runner;
use crate::kvm_of_tests::without_kvm;
use crate::program::GuestProgram;
use crate::session::prepare_codec_machines;
use crate::vm::{GuestRam, Platform, Prepared};

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

fn codec_machines(platform: &Platform, prepared: Vec<Prepared>) -> CodecMachines {
    let machines = prepared.into_iter().map(|machine| machine.complete(platform, 0, false).expect("a machine"));
    CodecMachines::new(machines.collect(), Duration::from_secs(60))
}

fn execute(
    backends: &[Backend<'_>],
    own: usize,
    codec_machines: &CodecMachines,
    records: Vec<UnpackRecord>,
) -> Outcome {
    serve(&ram(), backends, own, codec_machines, Action::Unpack(records))
}

fn serve(
    ram: &GuestRam,
    backends: &[Backend<'_>],
    own: usize,
    codec_machines: &CodecMachines,
    action: Action,
) -> Outcome {
    let copied_bytes = AtomicU64::new(0);
    let codec_machines = Some(codec_machines);
    let executor =
        Executor { backends, own, memory: ram.dma(), throttle: None, codec_machines, copied_bytes: &copied_bytes };
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
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/codec.bin"));
    let machine = Prepared::new(&platform, program, CODEC_MEMORY_BYTES).expect("a machine");
    let codec_machines = codec_machines(&platform, vec![machine]);
    let disk = pattern(40 * CLUSTER_BYTES as usize, 3);
    let (source, target) = (file(&packed(&disk)), file(&[9; 100]));
    let backends = [backend(&source, false), backend(&target, true)];
    let errno = |own, record| {
        let outcome = execute(&backends, own, &codec_machines, vec![record]);
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
    assert_eq!(execute(&backends, 1, &codec_machines, records).status, status::OK);
    let mut expected = [&[9; 100][..], &[0; 412], &disk].concat();
    expected.resize(39_999, 0);
    expected.push(disk[6 * 512]);
    expected.extend_from_slice(&disk[5 * 512 + 100..5 * 512 + 112]);
    expected.extend_from_slice(&disk[5 * 512 + 7..5 * 512 + 107]);
    assert!(contents(&target) == expected);
}

/// Packs clusters that lie at [`DATA`]; the lengths come to the start of the heap, and the bytes behind them.
fn pack(ram: &GuestRam, codec_machines: &CodecMachines, codec: u32, cluster_bytes: u32, count: usize) -> Outcome {
    let places = GuestAddress(HEAP_START + 4 * count as u64);
    let clusters =
        Clusters { codec, cluster_bytes, count, bytes: GuestAddress(DATA), lengths: GuestAddress(HEAP_START), places };
    let target = file(b"");
    serve(ram, &[backend(&target, true)], 0, codec_machines, Action::Pack(clusters))
}

#[test]
fn what_is_packed_unpacks_and_noise_is_left_alone() {
    if without_kvm("what_is_packed_unpacks_and_noise_is_left_alone") {
        return;
    }
    const SIZE: u32 = 4096;
    const COUNT: usize = 20;
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/codec.bin"));
    let prepare = || Prepared::new(&platform, program, CODEC_MEMORY_BYTES).expect("a machine");
    let codec_machines = codec_machines(&platform, vec![prepare(), prepare()]);
    let mut noise = 1u64;
    let mut bytes: Vec<u8> = pattern(7, 3).into_iter().cycle().take(SIZE as usize * COUNT).collect();
    for byte in &mut bytes[3 * SIZE as usize..4 * SIZE as usize] {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = noise.to_be_bytes()[0];
    }
    let ram = ram();
    ram.dma().write_slice(&bytes, GuestAddress(DATA)).expect("in memory");
    assert_eq!(pack(&ram, &codec_machines, 9, SIZE, COUNT).errno, libc::EBADMSG);
    for codec in [codec::DEFLATE, codec::ZSTD, codec::ZLIB] {
        assert_eq!(
            pack(&ram, &codec_machines, codec, SIZE, COUNT),
            Outcome { status: status::OK, errno: 0, record: 0 }
        );
        let lengths = read_bytes(ram.dma(), HEAP_START, 4 * COUNT);
        for (place, length) in lengths.chunks(4).enumerate() {
            let length = u32::from_le_bytes(length.try_into().expect("four"));
            assert_eq!(length == 0, place == 3, "{place}: {length}");
            let from = HEAP_START + 4 * COUNT as u64 + place as u64 * u64::from(SIZE);
            let (source, target) = (file(&read_bytes(ram.dma(), from, length as usize)), file(b""));
            let backends = [backend(&source, false), backend(&target, true)];
            let record = UnpackRecord {
                source_offset_bytes: 0,
                packed_bytes: length,
                cluster_bytes: SIZE,
                codec,
                ..record(0, 0, SIZE, 0)
            };
            let outcome = execute(&backends, 1, &codec_machines, vec![record]);
            let cluster = &bytes[place * SIZE as usize..][..SIZE as usize];
            assert!(place == 3 || outcome.status == status::OK && contents(&target) == cluster, "{codec} {place}");
        }
    }
}

#[test]
fn a_machine_that_does_something_else_is_given_up() {
    if without_kvm("a_machine_that_does_something_else_is_given_up") {
        return;
    }
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let info = GuestProgram::embedded(operation::INFO).expect("a program");
    let machine = info.prepare(&platform, CODEC_MEMORY_BYTES).expect("a machine");
    let codec_machines = codec_machines(&platform, vec![machine]);
    let (source, target) = (file(&packed(&[7; 512])), file(b""));
    let backends = [backend(&source, false), backend(&target, true)];
    let first = execute(&backends, 1, &codec_machines, vec![record(0, 0, 512, 0)]);
    assert_eq!((first.status, first.errno), (status::IO_ERROR, libc::EIO));
    let second = execute(&backends, 1, &codec_machines, vec![record(0, 0, 512, 0)]);
    assert_eq!((second.status, second.errno), (status::IO_ERROR, libc::ENODEV));
    assert_eq!(contents(&target), b"");
    let machine = info.prepare(&platform, CODEC_MEMORY_BYTES).expect("a machine");
    let packing = self::codec_machines(&platform, vec![machine]);
    assert_eq!(pack(&ram(), &packing, codec::ZSTD, 512, 1).errno, libc::EIO);
    assert_eq!(pack(&ram(), &packing, codec::ZSTD, 512, 1).errno, libc::ENODEV);
}

#[test]
fn there_are_machines_where_there_are_processors_and_kvm() {
    if without_kvm("there_are_machines_where_there_are_processors_and_kvm") {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let expected = if processors < 2 { 0 } else { processors.min(4) };
    assert_eq!(prepare_codec_machines(&platform).len(), expected);
    assert!(prepare_codec_machines(&Platform::Process).is_empty());
}
