//! What holds for all bytes: nothing panics, and what is written reads back.

use alloc::vec::Vec;
use proptest::prelude::*;

use super::Image;
use crate::qcow2::bitmap::{self, BitmapDirectory};
use crate::qcow2::extension::{BACKING_FORMAT, BITMAPS, DATA_FILE_NAME, FEATURE_NAMES};
use crate::qcow2::header::PREFIX_BYTES;
use crate::qcow2::snapshot::{self, SnapshotTable};
use crate::qcow2::{Access, Header, encode_first_cluster};

/// A valid header with some of everything.
fn rich_image(is_v3: bool) -> Image {
    let mut image = if is_v3 { Image::v3() } else { Image::v2() };
    let bitmaps = [&[0, 0, 0, 1, 0, 0, 0, 0], &32u64.to_be_bytes()[..], &0x5_0000u64.to_be_bytes()].concat();
    let extensions: [(u32, &[u8]); 6] = [
        (BACKING_FORMAT, b"qcow2"),
        (FEATURE_NAMES, &[0; 96]),
        (BITMAPS, &bitmaps),
        (DATA_FILE_NAME, b"disk.raw"),
        (0x1234_5678, b"unknown"),
        (0x1234_5679, b""),
    ];
    let start = if is_v3 { 112 } else { 72 };
    image.extensions(start, &extensions).backing_name(0x400, b"base.qcow2");
    if is_v3 {
        image.u64(88, 1);
    }
    image
}

/// Edits that hit fields more often than chance would: offset, width in bytes, value.
fn edits() -> impl Strategy<Value = Vec<(usize, usize, u64)>> {
    let value = prop_oneof![any::<u64>(), (0u64..200), (0u32..64).prop_map(|bit| 1 << bit), Just(u64::MAX)];
    let offset = prop_oneof![0usize..120, 0usize..600];
    proptest::collection::vec((offset, 1usize..=8, value), 0..8)
}

fn apply(image: &mut Image, edits: &[(usize, usize, u64)]) {
    for &(offset, width, value) in edits {
        image.put(offset, &value.to_be_bytes()[8 - width..]);
    }
}

/// Walks both tables of a header over the same arbitrary bytes.
fn walk_tables(header: &Header, bytes: &[u8]) {
    let mut table = SnapshotTable::new(header);
    for _ in 0..64 {
        if !matches!(table.step(bytes), Ok(snapshot::Step::Entry(_))) {
            break;
        }
    }
    if let Some(Ok(mut directory)) = header.extensions.bitmaps.map(|pointer| BitmapDirectory::new(header, pointer)) {
        for _ in 0..64 {
            if !matches!(directory.step(bytes), Ok(bitmap::Step::Entry(_))) {
                break;
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let _ = Header::parse(&bytes, Access::ReadWrite);
    }

    #[test]
    fn as_many_bytes_as_are_needed_say_what_all_of_them_say(
        is_v3 in any::<bool>(),
        edits in edits(),
        length in 0usize..1400,
    ) {
        let mut image = rich_image(is_v3);
        apply(&mut image, &edits);
        let cluster = &image.bytes[..1 << 16];
        for prefix in [length, PREFIX_BYTES] {
            let Ok(needed) = Header::needed_bytes(&cluster[..prefix]) else { continue };
            for access in [Access::Inspect, Access::ReadWrite] {
                let needed = &cluster[..needed.min(cluster.len())];
                prop_assert_eq!(Header::parse(needed, access), Header::parse(cluster, access));
            }
        }
    }

    #[test]
    fn edited_headers_never_panic_and_read_back(
        is_v3 in any::<bool>(),
        edits in edits(),
        table in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut image = rich_image(is_v3);
        apply(&mut image, &edits);
        if let Ok(header) = Header::parse(&image.bytes, Access::Inspect) {
            walk_tables(&header, &table);
            if let Ok(bytes) = encode_first_cluster(&header) {
                let again = Header::parse(&bytes, Access::Inspect).unwrap();
                // Writing reverses unknown extensions, replaces feature names, and fixes place and length.
                let mut expected = header.clone();
                expected.extensions.unknown.reverse();
                expected.extensions.feature_names.clone_from(&again.extensions.feature_names);
                expected.backing_name_offset = again.backing_name_offset;
                expected.header_length_bytes = again.header_length_bytes;
                prop_assert_eq!(&again, &expected);
                // Written twice, it is as it was.
                let twice = Header::parse(&encode_first_cluster(&again).unwrap(), Access::Inspect).unwrap();
                expected.extensions.unknown.reverse();
                prop_assert_eq!(twice, expected);
            }
        }
    }

    #[test]
    fn good_headers_stay_good(name in proptest::collection::vec(1u8..=255, 1..1024), is_v3 in any::<bool>()) {
        let mut header = Header::parse(&rich_image(is_v3).bytes, Access::ReadWrite).unwrap();
        header.backing_name = Some(name.clone());
        let bytes = encode_first_cluster(&header).unwrap();
        prop_assert_eq!(Header::parse(&bytes, Access::ReadWrite).unwrap().backing_name, Some(name));
    }
}
