//! The driver against devices made of byte vectors.

use std::vec;
use std::vec::Vec;

use instar_abi::block::kind;
use instar_exec::{
    Codec, CompareSegment, CompressedSource, CopySegment, DeviceId, Operation, Storage, StorageError, UnpackSegment,
    Verdict,
};

use super::mock::{Disk, Mock};
use super::storage::VirtioStorage;

const BASE: DeviceId = DeviceId(0);
const OVERLAY: DeviceId = DeviceId(1);

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251 + seed) % 256).unwrap_or(0)).collect()
}

fn storage(base: Vec<u8>, overlay: Vec<u8>, bounce_all: bool) -> VirtioStorage<Mock> {
    let disks =
        vec![Disk { bytes: base, ..Disk::default() }, Disk { bytes: overlay, read_only: true, ..Disk::default() }];
    VirtioStorage::new(Mock { disks, bounce_all, ..Mock::default() }, 2)
}

#[test]
fn reads_give_the_devices_bytes_and_zeros_behind_its_end() {
    for bounce_all in [false, true] {
        let image = pattern(3 << 20, 1);
        let mut storage = storage(Vec::new(), image.clone(), bounce_all);
        let mut buffer = vec![0xee; (2 << 20) + 77];
        storage.read(OVERLAY, (1 << 20) + 5, &mut buffer).expect("read");
        let there = (2 << 20) - 5;
        assert_eq!(buffer[..there], image[(1 << 20) + 5..]);
        assert!(buffer[there..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn writes_wait_for_one_doorbell() {
    let mut storage = storage(Vec::new(), Vec::new(), false);
    for (offset, at) in (0..).step_by(10).zip(0..100) {
        storage.write(BASE, offset, &pattern(10, at)).expect("write");
    }
    assert_eq!(storage.length_bytes(BASE), 1000);
    assert_eq!(storage.transport().disks[0].doorbells, 0);
    storage.settle().expect("settle");
    assert_eq!(storage.transport().disks[0].doorbells, 1);
    for at in 0..100 {
        assert_eq!(storage.transport().disks[0].bytes[at * 10..at * 10 + 10], pattern(10, at));
    }
}

#[test]
fn more_writes_than_the_queue_holds_all_arrive() {
    for (length, bounce_all) in [(1, false), (5000, false), (700_000, false), (3_000_000, false), (3_000_000, true)] {
        let mut storage = storage(Vec::new(), Vec::new(), bounce_all);
        let count = if length < 10_000 { 2000 } else { 5 };
        for at in 0..count {
            storage.write(BASE, (at * length) as u64, &pattern(length, at)).expect("write");
        }
        storage.settle().expect("settle");
        for at in 0..count {
            assert_eq!(storage.transport().disks[0].bytes[at * length..(at + 1) * length], pattern(length, at), "{at}");
        }
    }
}

#[test]
fn many_reads_share_doorbells() {
    let image = pattern(1 << 20, 3);
    let mut storage = storage(Vec::new(), image.clone(), false);
    let mut buffers = vec![[0u8; 512]; 200];
    let mut ranges: Vec<(u64, &mut [u8])> =
        (0..).map(|index| index * 4096 + 7).zip(buffers.iter_mut().map(|buffer| &mut buffer[..])).collect();
    storage.read_many(OVERLAY, &mut ranges).expect("read");
    for (index, buffer) in buffers.iter().enumerate() {
        assert_eq!(buffer[..], image[index * 4096 + 7..][..512], "range {index}");
    }
    assert_eq!(storage.transport().disks[1].doorbells, 3);
}

#[test]
fn reading_sees_what_was_queued_before() {
    let mut storage = storage(vec![0; 4096], Vec::new(), false);
    storage.write(BASE, 100, b"written").expect("write");
    storage.write_zeroes(BASE, 200, 10, true).expect("zero");
    let mut buffer = [0; 7];
    storage.read(BASE, 100, &mut buffer).expect("read");
    assert_eq!(&buffer, b"written");
}

#[test]
fn the_start_of_a_device_is_read_once_until_something_changes() {
    type Change = fn(&mut VirtioStorage<Mock>) -> Result<(), StorageError>;
    let changes: [Change; 4] = [
        |storage| storage.write(BASE, 3, b"new"),
        |storage| storage.write_zeroes(BASE, 3, 3, false),
        |storage| {
            let segment = CopySegment { target_offset: 3, source: OVERLAY, source_offset: 0, length_bytes: 3 };
            storage.copy(BASE, &[segment])
        },
        |storage| storage.resize(BASE, 5),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut storage = storage(pattern(5000, 1), pattern(100, 2), false);
        let read = |storage: &mut VirtioStorage<Mock>, offset, length| {
            let mut buffer = vec![0xee; length];
            storage.read(BASE, offset, &mut buffer).expect("read");
            buffer
        };
        for (offset, length) in [(0, 512), (3, 4000), (0, 4096), (4095, 1), (7, 0)] {
            let start = usize::try_from(offset).expect("small");
            assert_eq!(read(&mut storage, offset, length), pattern(5000, 1)[start..start + length]);
        }
        assert_eq!(storage.transport().disks[0].doorbells, 1);
        change(&mut storage).expect("changed");
        let found = read(&mut storage, 0, 16);
        let mut now = storage.transport().disks[0].bytes.clone();
        now.resize(5000, 0);
        assert_eq!(found, now[..16], "change {number}");
        assert_ne!(found, pattern(5000, 1)[..16], "change {number}");
        assert_eq!(read(&mut storage, 4000, 1000), now[4000..5000]);
    }
}

#[test]
fn reading_one_device_leaves_the_others_queue_alone() {
    let mut storage = storage(Vec::new(), pattern(100, 0), false);
    storage.write(BASE, 0, b"queued").expect("write");
    storage.read(OVERLAY, 0, &mut [0; 10]).expect("read");
    assert_eq!(storage.transport().disks[0].doorbells, 0);
}

#[test]
fn copies_are_collected_into_lists() {
    let source = pattern(1 << 20, 7);
    let mut storage = storage(Vec::new(), source.clone(), false);
    for at in (0..256u64).rev() {
        let segment = CopySegment {
            target_offset: at * 4096,
            source: OVERLAY,
            source_offset: (255 - at) * 4096,
            length_bytes: 4096,
        };
        storage.copy(BASE, &[segment]).expect("copy");
    }
    assert_eq!(storage.length_bytes(BASE), 1 << 20);
    storage.flush(BASE).expect("flush");
    let disk = &storage.transport().disks[0];
    assert_eq!((disk.doorbells, disk.served.as_slice()), (1, [kind::COPY, kind::SYNC].as_slice()));
    for at in 0..256 {
        assert_eq!(disk.bytes[at * 4096..(at + 1) * 4096], source[(255 - at) * 4096..(256 - at) * 4096]);
    }
}

#[test]
fn the_host_compares_long_lists_with_few_doorbells() {
    let (left, mut right) = (pattern(1 << 20, 7), pattern(1 << 20, 7));
    right[5 * 128] ^= 1;
    right.truncate((1 << 20) - 1);
    let mut storage = storage(left, right, false);
    let segment = |at: u64| CompareSegment {
        offset: at * 128,
        other: Some(OVERLAY),
        other_offset: at * 128,
        length_bytes: 128,
        unit_bytes: 4096,
    };
    let segments: Vec<CompareSegment> = (0..8192).map(segment).collect();
    let mut verdicts = Vec::new();
    storage.compare(BASE, &segments, &mut verdicts).expect("compared");
    let found: Vec<usize> = (0..8192).filter(|at| verdicts[*at] != Verdict::Equal).collect();
    assert_eq!((verdicts.len(), found), (8192, Vec::from([5, 8191])));
    assert_eq!(storage.transport().disks[0].served, [kind::COMPARE; 2]);
    // One long segment in small units, which are more than one list can have.
    let whole = CompareSegment { length_bytes: 1 << 20, unit_bytes: 16, ..segments[0] };
    verdicts.clear();
    storage.compare(BASE, &[whole], &mut verdicts).expect("compared");
    let found: Vec<usize> = (0..verdicts.len()).filter(|at| verdicts[*at] != Verdict::Equal).collect();
    assert_eq!((verdicts.len(), found), (65536, Vec::from([40, 65535])));
    let beyond = CompareSegment { offset: 2 << 20, other_offset: 0, length_bytes: 300, unit_bytes: 200, ..whole };
    let zeros = CompareSegment { other: None, length_bytes: 4, ..segments[0] };
    verdicts.clear();
    storage.compare(BASE, &[beyond, zeros], &mut verdicts).expect("compared");
    assert_eq!(verdicts, [Verdict::DiffersFromZeros, Verdict::DiffersFromZeros, Verdict::Differs]);
    // The queue is as good as before.
    storage.write(BASE, 0, b"x").and_then(|()| storage.flush(BASE)).expect("written");
}

#[test]
fn long_lists_and_long_segments_are_cut() {
    let mut storage = storage(Vec::new(), vec![9; 200 << 20], false);
    let long = CopySegment { target_offset: 0, source: OVERLAY, source_offset: 0, length_bytes: 150 << 20 };
    storage.copy(BASE, &[long]).expect("copy");
    storage.settle().expect("settle");
    assert_eq!(storage.transport().disks[0].doorbells, 3);
    assert!(storage.transport().disks[0].bytes.iter().all(|byte| *byte == 9));
    assert_eq!(storage.transport().disks[0].bytes.len(), 150 << 20);

    let many: Vec<CopySegment> = (0..10_000)
        .map(|at| CopySegment { target_offset: at, source: OVERLAY, source_offset: at, length_bytes: 1 })
        .collect();
    storage.copy(BASE, &many).expect("copy");
    storage.settle().expect("settle");
    assert_eq!(storage.transport().disks[0].served.len(), 3 + 3);
}

#[test]
fn resize_and_flush_come_after_everything_queued() {
    let mut storage = storage(vec![1; 1000], Vec::new(), false);
    storage.write(BASE, 990, &[2; 30]).expect("write");
    storage.resize(BASE, 1010).expect("resize");
    assert_eq!(storage.length_bytes(BASE), 1010);
    assert_eq!(storage.transport().disks[0].bytes[990..], [2; 20]);
    storage.discard(BASE, 0, 10).expect("discard");
    storage.flush(BASE).expect("flush");
    let served = &storage.transport().disks[0].served;
    assert_eq!(served[..], [kind::WRITE_BYTES, kind::RESIZE, kind::DISCARD_BYTES, kind::SYNC]);
}

#[test]
fn a_failed_write_is_named_by_the_call_that_completes_it() {
    let mut storage = storage(Vec::new(), Vec::new(), false);
    storage.transport_mut().disks[0].full_at = Some(1000);
    for at in 0..20u64 {
        storage.write(BASE, at * 100, &[1; 100]).expect("queued");
    }
    assert_eq!(storage.length_bytes(BASE), 2000);
    let error = storage.settle().expect_err("the disk is full");
    assert_eq!((error.operation, error.offset, error.errno), (Operation::Write, 1000, 28));
    assert_eq!(storage.length_bytes(BASE), 1000, "the length is what the host says again");
    storage.settle().expect("nothing is left behind");
}

#[test]
fn a_failed_copy_is_named_by_its_record() {
    let mut storage = storage(Vec::new(), pattern(4096, 0), false);
    storage.transport_mut().disks[0].full_at = Some(250);
    let segments: Vec<CopySegment> = (0..4)
        .map(|at| CopySegment { target_offset: at * 100, source: OVERLAY, source_offset: 0, length_bytes: 100 })
        .collect();
    storage.copy(BASE, &segments).expect("queued");
    let error = storage.flush(BASE).expect_err("the disk is full");
    assert_eq!((error.operation, error.offset, error.errno), (Operation::Copy, 200, 28));
}

#[test]
fn read_only_devices_refuse() {
    let mut storage = storage(Vec::new(), pattern(100, 0), false);
    storage.write(OVERLAY, 0, b"no").expect("queued");
    let error = storage.settle().expect_err("read-only");
    assert_eq!((error.device, error.errno), (OVERLAY, 13));
}

#[test]
fn unknown_devices_and_endless_ranges_are_errors() {
    let mut storage = storage(Vec::new(), Vec::new(), false);
    assert_eq!(storage.read(DeviceId(2), 0, &mut [0]).expect_err("no such device").errno, 19);
    assert_eq!(storage.length_bytes(DeviceId(9)), 0);
    assert_eq!(storage.write(BASE, u64::MAX, &[1, 2]).expect_err("too far").errno, 27);
    let far = CopySegment { target_offset: u64::MAX, source: OVERLAY, source_offset: 0, length_bytes: 2 };
    assert_eq!(storage.copy(BASE, &[far]).expect_err("too far").errno, 27);
}

#[test]
fn progress_reaches_the_machine() {
    let mut storage = storage(Vec::new(), Vec::new(), false);
    storage.progress(1, 2);
    assert_eq!(storage.transport().progress, [(1, 2)]);
}

#[test]
fn the_host_unpacks_where_it_says_that_it_can() {
    let segment = |at: u64| UnpackSegment {
        target_offset: at * 100,
        length_bytes: 100,
        source: CompressedSource {
            layer: 0,
            device: OVERLAY.0,
            host_offset: at,
            length_bytes: 1,
            cluster_size_bytes: 512,
            codec: Codec::Zstd,
            offset_in_cluster: 7,
        },
    };
    let segments: Vec<UnpackSegment> = (0..5000).map(segment).collect();
    let mut storage = storage(Vec::new(), pattern(5000, 3), false);
    assert_eq!(storage.unpack(BASE, &segments), Ok(false));
    assert_eq!(storage.length_bytes(BASE), 0);
    storage.transport_mut().disks[0].codes = true;
    storage.write(BASE, 0, &[1; 500_100]).expect("queued");
    assert_eq!(storage.unpack(BASE, &segments), Ok(true));
    assert_eq!(storage.length_bytes(BASE), 500_100);
    let disk = &storage.transport().disks[0];
    assert_eq!(disk.served, [kind::WRITE_BYTES, kind::UNPACK, kind::UNPACK]);
    let expected: Vec<u8> = pattern(5000, 3).into_iter().flat_map(|byte| [byte; 100]).chain([1; 100]).collect();
    assert!(disk.bytes == expected);
    // What the host cannot do, and what it cannot take, is left to the caller.
    storage.transport_mut().disks[0].full_at = Some(200);
    assert_eq!(storage.unpack(BASE, &segments), Ok(false));
    let mut large = segments[0];
    large.source.cluster_size_bytes = 4 << 20;
    assert_eq!(storage.unpack(BASE, &[large]), Ok(false));
    let far = UnpackSegment { target_offset: u64::MAX, ..segments[0] };
    assert_eq!(storage.unpack(BASE, &[far]).map_err(|error| error.errno), Err(27));
}

#[test]
fn the_host_packs_where_it_says_that_it_can() {
    const SIZE: usize = 512;
    // More than one request holds.
    let clusters: Vec<u8> = (0..5000u32).flat_map(|place| [(place % 200).to_le_bytes()[0]; SIZE]).collect();
    let mut storage = storage(Vec::new(), Vec::new(), false);
    assert_eq!(storage.pack(BASE, Codec::Deflate, SIZE, &clusters), Ok(None));
    storage.transport_mut().disks[0].codes = true;
    storage.write(BASE, 0, &[1; 100]).expect("queued");
    let packed = storage.pack(BASE, Codec::Deflate, SIZE, &clusters).expect("no failure").expect("it is done");
    assert_eq!(storage.transport().disks[0].served, [kind::WRITE_BYTES, kind::PACK, kind::PACK]);
    assert_eq!(packed.len(), 5000);
    for (place, packed) in (0..5000u32).zip(packed) {
        let byte = (place % 200).to_le_bytes()[0];
        let expected = (byte > 0).then(|| alloc::vec![byte; byte.into()]);
        assert_eq!(packed, expected, "{place}");
    }
    // A length that is no shorter than the cluster is none, and a host that cannot is done without.
    assert_eq!(storage.pack(BASE, Codec::Deflate, 64, &[99; 64]), Ok(Some(alloc::vec![None])));
    storage.transport_mut().disks[0].full_at = Some(0);
    assert_eq!(storage.pack(BASE, Codec::Deflate, SIZE, &clusters), Ok(None));
    assert_eq!(storage.pack(BASE, Codec::Deflate, 4 << 20, &[0; 4 << 20]), Ok(None));
}
