//! The last value that is allowed, and the first one that is not.

use alloc::string::{String, ToString};

use super::Image;
use crate::qcow2::bitmap::Bitmap;
use crate::qcow2::entry::{L1Entry, L2Entry};
use crate::qcow2::{Access, Header};

fn found(edit: impl Fn(&mut Image) -> &mut Image) -> String {
    let mut image = Image::v3();
    edit(&mut image);
    Header::parse(&image.bytes, Access::Inspect).map_or_else(|error| error.to_string(), |_| "accepted".to_string())
}

#[test]
fn tables_may_fill_what_can_be_read_and_no_more() {
    const END: u64 = 0x7fff_ffff_c000_0000;
    assert_eq!(found(|i| i.u64(40, END - 0x1_0000).u32(36, 8192)), "accepted");
    assert_eq!(found(|i| i.u64(40, END - 0x1_0000).u32(36, 8193)), "Could not read L1 table: Input/output error");
    assert_eq!(found(|i| i.u64(48, END - 0x1_0000)), "accepted");
    assert_eq!(
        found(|i| i.u64(48, END - 0x1_0000).u32(56, 2)),
        "Could not initialize refcount handling: Input/output error"
    );
}

#[test]
fn an_l1_table_has_32_mib_at_most() {
    assert_eq!(found(|i| i.u32(36, 32 << 17)), "accepted");
    assert_eq!(found(|i| i.u32(36, (32 << 17) + 1)), "Active L1 table too large");
}

#[test]
fn a_refcount_table_has_8_mib_at_most() {
    assert_eq!(found(|i| i.u32(56, 128)), "accepted");
    assert_eq!(found(|i| i.u32(56, 129)), "Reference count table too large");
}

#[test]
fn subclusters_have_512_bytes_at_least() {
    let extended = |cluster_bits| found(move |i| i.u32(20, cluster_bits).u64(72, 16).u64(24, 1 << 20));
    assert_eq!(extended(14), "accepted");
    assert_eq!(extended(13), "Unsupported subcluster size: 256");
    assert_eq!(extended(9), "Unsupported subcluster size: 16");
}

#[test]
fn bitmaps_have_512_mib_at_most() {
    let bitmap =
        Bitmap { table_offset: 0x4_0000, table_entries: 1, flags: 0, granularity_bits: 9, name: b"b".to_vec() };
    // What one cluster of bits stands for.
    let span = |cluster_bits: u32| (512 * 8) << cluster_bits;
    assert_eq!(bitmap.table_entries_for(span(21), 21), Some(1));
    assert_eq!(bitmap.table_entries_for(span(21) + 512, 21), Some(2));
    assert_eq!(bitmap.table_entries_for(256 * span(21), 21), Some(256));
    assert_eq!(bitmap.table_entries_for(256 * span(21) + 512, 21), None);
    // Parts of sectors have no bits.
    assert_eq!(bitmap.table_entries_for(span(16) + 511, 16), Some(1));
    assert_eq!(bitmap.table_entries_for(511, 16), None);
}

#[test]
fn an_l1_entry_says_whether_its_table_is_its_own() {
    for (entry, is_copied) in [
        (L1Entry(0x5_0000), false),
        (L1Entry::owned(0x5_0000), true),
        (L1Entry::owned(0x5_0000).with_copied(false), false),
        (L1Entry(0x5_0000).with_copied(true), true),
    ] {
        assert_eq!((entry.is_copied(), entry.l2_offset()), (is_copied, Some(0x5_0000)));
    }
}

#[test]
fn packed_clusters_end_in_the_sector_that_the_entry_says() {
    let geometry = Header::parse(&Image::v3().bytes, Access::Inspect).expect("a header").geometry();
    for (host_offset, length_bytes, end) in [
        (0x5_0000, 1, 0x5_0200),
        (0x5_0000, 512, 0x5_0200),
        (0x5_0000, 513, 0x5_0400),
        (0x5_01ff, 1, 0x5_0200),
        (0x5_01ff, 2, 0x5_0400),
        (0x5_0123, 60_000, 0x5_ec00),
    ] {
        let entry = L2Entry::compressed(&geometry, host_offset, length_bytes).expect("fits");
        let range = entry.compressed_range(&geometry).expect("compressed");
        assert_eq!((range.host_offset, range.host_offset + range.length_bytes), (host_offset, end));
    }
    let last = 1 << (62 - (16 - 8));
    assert!(L2Entry::compressed(&geometry, last - 512, 512).is_some());
    assert!(L2Entry::compressed(&geometry, last - 512, 513).is_none());
}
