//! A base whose refcount table has to move because the file outgrows it, once and twice in one commit.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

mod support;

use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, Shape, commit, empty_image, read, write};

/// Clusters of 512 bytes with refcounts of 64 bits: a refcount table of one cluster reaches 2 MiB.
fn shape(size_bytes: u64, has_backing: bool) -> Shape {
    Shape { version: 3, cluster_bits: 9, refcount_order: 6, extended_l2: false, size_bytes, has_backing }
}

fn commit_bytes(length_bytes: u64) -> (MemoryStorage, Vec<u8>) {
    let pattern = (0..length_bytes).map(|index| (index / 512) as u8 | 1).collect();
    let overlay = Shape { cluster_bits: 16, refcount_order: 4, ..shape(length_bytes, true) };
    let mut storage =
        MemoryStorage { devices: vec![empty_image(&overlay), empty_image(&shape(length_bytes, false)), pattern] };
    let source = Source::Data { device: 2, host_offset: 0 };
    write(&mut storage, &[QCOW2, QCOW2], 0, &[Extent { guest_offset: 0, length_bytes, source }]);
    let before = read(&mut storage, &[QCOW2, QCOW2], 0);
    commit(&mut storage, &[QCOW2, QCOW2]).unwrap();
    (storage, before)
}

fn refcount_table(storage: &MemoryStorage) -> (u64, u32) {
    let header = &storage.devices[1][48..60];
    (u64::from_be_bytes(header[..8].try_into().unwrap()), u32::from_be_bytes(header[8..].try_into().unwrap()))
}

#[test]
fn a_file_that_outgrows_its_refcount_table_gets_a_longer_one() {
    let (mut storage, before) = commit_bytes(3 << 20);
    let (offset, clusters) = refcount_table(&storage);
    assert!(offset != 512 && clusters >= 2, "the table is still at {offset} and {clusters} clusters long");
    assert!(read(&mut storage, &[QCOW2, QCOW2], 1) == before);
    assert_eq!(commit(&mut storage, &[QCOW2, QCOW2]).unwrap().bytes_committed, 0, "the census agrees");
}

#[test]
fn a_table_can_move_several_times_in_one_commit() {
    let (mut storage, before) = commit_bytes(24 << 20);
    let (_, clusters) = refcount_table(&storage);
    assert!(clusters >= 12, "{clusters} clusters cannot reach 24 MiB");
    assert!(read(&mut storage, &[QCOW2, QCOW2], 1) == before);
    assert_eq!(commit(&mut storage, &[QCOW2, QCOW2]).unwrap().bytes_committed, 0, "the census agrees");
}
