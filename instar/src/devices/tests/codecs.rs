//! Clusters and packed ones in real machines: what comes out, and how each of the things that can go wrong is answered.

use std::fs::File;
use std::time::Duration;

use instar_abi::block::{UnpackRecord, codec, status};
use instar_abi::codec_machine::{CODEC_MEMORY_BYTES, SLOTS};
use instar_abi::job::operation;
use instar_abi::memory::HEAP_START;
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::Backend;
use super::super::codec_machines::{CodecMachines, Slot};
use super::super::executor::{Executor, Kept, Outcome};
use super::super::pack::Clusters;
use super::super::request::{Action, Answer, Request};
use super::{ANSWER, DATA, backend, contents, direct, file, pattern, ram, read_bytes};
use crate::jail::Runner;
use crate::kvm_of_tests::without_kvm;
use crate::program::GuestProgram;
use crate::session::prepare_codec_machines;
use crate::vm::{GuestRam, Platform, Prepared};

const CLUSTER_BYTES: u32 = 512;
/// A cluster that deflate stores as it is.
const PACKED_BYTES: u32 = 5 + CLUSTER_BYTES;

/// Clusters one behind the other, each packed.
fn packed(clusters: &[u8], cluster_bytes: u32) -> Vec<u8> {
    let [low, high, ..] = cluster_bytes.to_le_bytes();
    let header = [1, low, high, !low, !high];
    clusters.chunks(cluster_bytes as usize).flat_map(|cluster| [&header, cluster].concat()).collect()
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

/// Machines with the program that packs and unpacks.
fn some_machines(count: usize) -> CodecMachines {
    let platform = Platform::open(Runner::Kvm).expect("KVM");
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/codec.bin"));
    let prepare = |_| Prepared::new(&platform, program, CODEC_MEMORY_BYTES).expect("a machine");
    codec_machines(&platform, (0..count).map(prepare).collect())
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
    let kept = Kept::default();
    let codec_machines = Some(codec_machines);
    let executor = Executor { backends, own, memory: ram.dma(), throttle: None, codec_machines, kept: &kept };
    let answer = Answer::Completion(GuestAddress(ANSWER));
    executor.execute(&[Request { head: 0, action, answer, writable_bytes: 16 }], &mut |_| ())[0]
}

#[test]
fn clusters_and_parts_of_them_come_out_and_failures_leave_the_machine_whole() {
    if without_kvm("clusters_and_parts_of_them_come_out_and_failures_leave_the_machine_whole") {
        return;
    }
    // One machine is enough, and the one that is left must still work after each failure.
    let codec_machines = some_machines(1);
    let disk = pattern(40 * CLUSTER_BYTES as usize, 3);
    let (source, target) = (file(&packed(&disk, CLUSTER_BYTES)), file(&[9; 100]));
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

#[test]
fn long_stretches_of_new_bytes_go_past_the_page_cache() {
    if without_kvm("long_stretches_of_new_bytes_go_past_the_page_cache") {
        return;
    }
    const SIZE: u32 = 32 << 10;
    const MIB: u64 = 1 << 20;
    let codec_machines = some_machines(2);
    let disk = pattern(3 * SIZE as usize, 3);
    let source = file(&packed(&disk, SIZE));
    // Where a stretch begins, how long it is, and whether it is such as goes past the page cache.
    let stretches = [
        (0, MIB, false),
        (4 * MIB, 3 * MIB, true),
        (12 * MIB, 2 * MIB, true),
        (8 * MIB, 96 << 10, false),
        (9 * MIB + 512, MIB, false),
    ];
    let records: Vec<UnpackRecord> = stretches
        .iter()
        .flat_map(|&(start, length, _)| (start..start + length).step_by(SIZE as usize))
        .enumerate()
        .map(|(place, target_offset_bytes)| UnpackRecord {
            target_offset_bytes,
            source_offset_bytes: (place as u64 % 3) * u64::from(5 + SIZE),
            packed_bytes: 5 + SIZE,
            cluster_bytes: SIZE,
            length_bytes: SIZE,
            ..record(0, 0, 1, 0)
        })
        .collect();
    let unpacked = |target: &File, bulk: Option<&File>| {
        let target = backend(target, true).bulk(bulk);
        let is_bulk = target.bulk_at(4 * MIB).is_some();
        let backends = [backend(&source, false), target];
        assert_eq!(execute(&backends, 1, &codec_machines, records.clone()), Outcome::OK);
        assert_eq!(backends[1].length_bytes(), 14 * MIB);
        is_bulk
    };
    let index = |offset: u64| usize::try_from(offset).expect("short");
    let old = vec![9; index(MIB)];
    let plain = file(&old);
    assert!(!unpacked(&plain, None));
    let expected = contents(&plain);
    for (place, record) in records.iter().enumerate() {
        let wanted = &disk[place % 3 * SIZE as usize..][..SIZE as usize];
        assert!(&expected[index(record.target_offset_bytes)..][..SIZE as usize] == wanted, "{place}");
    }

    let past = file(&old);
    if let Some(bulk) = direct(&past) {
        unpacked(&past, Some(&bulk));
        assert!(contents(&past) == expected);
    }

    // Another file in place of the one past the page cache shows what would have gone there.
    let (target, elsewhere) = (file(&old), file(b""));
    if !unpacked(&target, Some(&elsewhere)) {
        eprintln!("not run: nothing goes past the page cache here");
        return;
    }
    let (target, elsewhere) = (contents(&target), contents(&elsewhere));
    for (start, length, is_past) in stretches {
        let part = |bytes: &[u8]| bytes.get(index(start)..index(start + length)).unwrap_or_default().to_vec();
        assert_eq!(part(&elsewhere) == part(&expected), is_past, "{start}");
        assert_eq!(part(&target) == part(&expected), !is_past, "{start}");
    }
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
    let codec_machines = some_machines(2);
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
fn slots_are_lent_by_who_has_most_and_come_back() {
    if without_kvm("slots_are_lent_by_who_has_most_and_come_back") {
        return;
    }
    let machines = some_machines(2);
    let number = |slot: &mut Slot| slot.machine_number();
    for _ in 0..2 {
        // Two in a row are of different machines, and when all are lent there is none.
        let lent = machines.lend(|one| machines.lend(|other| Ok((number(one), number(other)))));
        assert!(matches!(lent, Ok((0, 1) | (1, 0))), "{lent:?}");
        assert_eq!(lend_all(&machines, &mut vec![]).raw_os_error(), Some(libc::ENODEV));
        assert_eq!(machines.slot_count(), 2 * SLOTS as usize);
    }
    let failed = machines.lend(|_| Err::<(), _>(std::io::Error::from_raw_os_error(libc::EIO)));
    assert_eq!(failed.map_err(|error| error.raw_os_error()), Err(Some(libc::EIO)));
    let mut lent = vec![];
    lend_all(&machines, &mut lent);
    lent.sort_unstable();
    assert_eq!(lent, [0, 0, 0, 1, 1, 1]);
}

/// Takes slots until there are no more, and says why.
fn lend_all(machines: &CodecMachines, lent: &mut Vec<usize>) -> std::io::Error {
    let more = machines.lend(|slot| {
        lent.push(slot.machine_number());
        Err::<(), _>(lend_all(machines, lent))
    });
    more.expect_err("no end of slots")
}

#[test]
fn what_does_not_fit_into_a_slot_is_refused() {
    if without_kvm("what_does_not_fit_into_a_slot_is_refused") {
        return;
    }
    let machines = some_machines(1);
    let errno = |offset, length| {
        let place = machines.lend(|slot| slot.unpacked(offset, length).map(|place| place.len()));
        place.map_err(|error| error.raw_os_error())
    };
    assert_eq!(errno(0, 2 << 20), Ok(2 << 20));
    assert_eq!(errno(2 << 20, 0), Ok(0));
    for (offset, length) in [(0, (2 << 20) + 1), (1, 2 << 20), (u64::MAX, 1), (3 << 20, 1)] {
        assert_eq!(errno(offset, length), Err(Some(libc::EFAULT)), "{offset} {length}");
    }
    let table = machines.lend(|slot| slot.write_table(&[0; (16 << 10) + 1]));
    assert_eq!(table.map_err(|error| error.raw_os_error()), Err(Some(libc::EFAULT)));
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
    let (source, target) = (file(&packed(&[7; 512], CLUSTER_BYTES)), file(b""));
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
