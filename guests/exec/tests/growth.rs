//! A qcow2 base that grows: where its file ends, what must not come to light, and what version 2 cannot do.

mod support;

use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, Shape, commit, empty_image, read, write};

fn shape(version: u32, cluster_bits: u32, size_bytes: u64, has_backing: bool) -> Shape {
    Shape { version, cluster_bits, refcount_order: 4, extended_l2: false, size_bytes, has_backing }
}

fn field(image: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(image[offset..offset + 8].try_into().unwrap())
}

#[test]
fn a_grown_file_ends_with_its_l1_table() {
    let base = empty_image(&shape(3, 11, 5 << 20, false));
    let overlay = empty_image(&shape(3, 16, 9 << 20, true));
    let mut storage = MemoryStorage { devices: vec![overlay, base] };
    commit(&mut storage, &[QCOW2, QCOW2]).unwrap();
    let base = &storage.devices[1];
    let entries = u64::from(u32::from_be_bytes(base[36..40].try_into().unwrap()));
    assert_eq!((field(base, 24), entries), (9 << 20, 18));
    assert_eq!(base.len() as u64, field(base, 40) + entries * 8);
}

#[test]
fn old_bytes_behind_the_end_of_the_disk_stay_hidden() {
    let base = empty_image(&shape(3, 16, 65536, false));
    let overlay = empty_image(&shape(3, 16, 131_072, true));
    let mut storage = MemoryStorage { devices: vec![overlay, base, vec![0xaa; 65536]] };
    let source = Source::Data { device: 2, host_offset: 0 };
    write(&mut storage, &[QCOW2, QCOW2], 1, &[Extent { guest_offset: 0, length_bytes: 65536, source }]);
    storage.devices[1][24..32].copy_from_slice(&512u64.to_be_bytes());
    let before = read(&mut storage, &[QCOW2, QCOW2], 0);
    assert!(before[..512].iter().all(|byte| *byte == 0xaa) && before[512..].iter().all(|byte| *byte == 0));
    commit(&mut storage, &[QCOW2, QCOW2]).unwrap();
    assert!(read(&mut storage, &[QCOW2, QCOW2], 0) == before, "the overlay shows something else");
    assert!(read(&mut storage, &[QCOW2, QCOW2], 1) == before, "the base shows something else");
}

#[test]
fn version_2_grows_over_a_longer_backing_within_its_last_cluster_only() {
    for (size_bytes, fits) in [(65536, true), (66048, false)] {
        let below = empty_image(&shape(3, 16, 131_072, false));
        let base = empty_image(&shape(2, 16, 1024, true));
        let overlay = empty_image(&shape(3, 16, size_bytes, true));
        let mut storage = MemoryStorage { devices: vec![overlay, base, below, vec![0xaa; 131_072]] };
        let source = Source::Data { device: 3, host_offset: 0 };
        let formats = [QCOW2, QCOW2, QCOW2];
        write(&mut storage, &formats, 2, &[Extent { guest_offset: 0, length_bytes: 131_072, source }]);
        let before = read(&mut storage, &formats, 0);
        let done = commit(&mut storage, &formats);
        assert_eq!(done.is_ok(), fits, "{size_bytes}: {done:?}");
        assert!(read(&mut storage, &formats, 0) == before, "{size_bytes}");
    }
}

#[test]
fn what_lies_below_a_short_base_stays_hidden_over_many_tables() {
    let bytes = vec![0xaa; 48 << 20];
    let long = bytes.len() as u64;
    let below = empty_image(&shape(3, 16, long, false));
    let base = empty_image(&shape(3, 9, 1 << 20, true));
    let overlay = empty_image(&shape(3, 16, long, true));
    let mut storage = MemoryStorage { devices: vec![overlay, base, below, bytes] };
    let formats = [QCOW2, QCOW2, QCOW2];
    let source = Source::Data { device: 3, host_offset: 0 };
    write(&mut storage, &formats, 2, &[Extent { guest_offset: 0, length_bytes: long, source }]);
    write(&mut storage, &formats, 0, &[Extent { guest_offset: long - 4096, length_bytes: 4096, source }]);
    let before = read(&mut storage, &formats, 0);
    commit(&mut storage, &formats).unwrap();
    assert!(read(&mut storage, &formats, 0) == before, "the overlay shows something else");
    assert!(read(&mut storage, &formats, 1) == before, "the base shows something else");
}

#[test]
fn a_disk_has_no_larger_l1_table_than_32_mib() {
    // In clusters of 512 bytes each entry stands for 32 KiB, and there may be 4 Mi of them.
    let base = empty_image(&shape(3, 9, 1 << 20, false));
    let overlay = empty_image(&shape(3, 16, (128 << 30) + 512, true));
    let mut storage = MemoryStorage { devices: vec![overlay, base] };
    let before = storage.devices.clone();
    assert_eq!(commit(&mut storage, &[QCOW2, QCOW2]).unwrap_err(), "Operation not supported");
    assert!(storage.devices == before);
}
