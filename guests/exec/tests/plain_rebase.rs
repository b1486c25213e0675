//! The rebase that is tried before anybody has looked at the image: what it does is what the ordinary one does, and where it
//! does not do it nothing has changed.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod support;

use instar_abi::job::{JobHeader, RebaseJob, format, operation, rebase_flag};
use instar_abi::report::{ReportHeader, error_kind, outcome};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;
use instar_exec::memory::MemoryStorage;
use instar_formats::qcow2::feature;
use proptest::prelude::*;
use support::{Shape, empty_image, job};

/// Where the header's incompatible features and its encryption method stand.
const FEATURES: usize = 72;
const CRYPT_METHOD: usize = 32;

/// Carries out an unsafe rebase; gives outcome and kind of error, and the image afterwards.
fn rebased(image: &[u8], image_format: u32, flags: u32, name: &[u8]) -> ((u32, u32), Vec<u8>) {
    let mut bytes = job(&[image_format], 0, 0);
    bytes.truncate(OPERATION_PART_OFFSET);
    bytes.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::REBASE, ..JobHeader::get(&bytes) }.put(&mut bytes);
    let mut part = RebaseJob {
        flags: flags | rebase_flag::UNSAFE,
        old_layers: 0,
        join_layer: 1,
        name_length_bytes: name.len() as u32,
        name: [0; 1024],
        format_name: [0; 16],
    };
    part.name[..name.len()].copy_from_slice(name);
    part.format_name[..5].copy_from_slice(b"qcow2");
    part.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut storage = MemoryStorage { devices: vec![image.to_vec()] };
    let mut report = vec![0; 128 << 10];
    instar_exec::rebase::run(&bytes, &mut storage, &mut report);
    let header = ReportHeader::get(&report);
    ((header.outcome, header.error_kind), storage.devices.remove(0))
}

const DONE: (u32, u32) = (outcome::DONE, error_kind::NONE);
const NOT_PLAIN: (u32, u32) = (outcome::FAILED, error_kind::NOT_PLAIN);

fn if_plain(image: &[u8], image_format: u32, name: &[u8]) -> ((u32, u32), Vec<u8>) {
    rebased(image, image_format, rebase_flag::IF_PLAIN, name)
}

fn shape() -> impl Strategy<Value = Shape> {
    (2..=3u32, 9..=17u32, any::<bool>(), any::<bool>()).prop_map(|(version, cluster_bits, extended_l2, has_backing)| {
        Shape {
            version,
            cluster_bits,
            refcount_order: 4,
            extended_l2: extended_l2 && version == 3 && cluster_bits >= 14,
            size_bytes: 1 << 20,
            has_backing,
        }
    })
}

fn small() -> Shape {
    Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 20,
        has_backing: true,
    }
}

fn sound() -> Vec<u8> {
    empty_image(&small())
}

#[test]
fn what_needs_more_is_left_alone() {
    let with_bit = |at: usize, bit: u64| {
        let mut image = sound();
        let word = u64::from_be_bytes(image[at..at + 8].try_into().expect("eight bytes")) | bit;
        image[at..at + 8].copy_from_slice(&word.to_be_bytes());
        image
    };
    let mut encrypted = sound();
    encrypted[CRYPT_METHOD + 3] = 1;
    let mut vmdk = sound();
    vmdk[..4].copy_from_slice(b"KDMV");
    for (what, image) in [
        ("dirty", with_bit(FEATURES, feature::DIRTY)),
        ("corrupt", with_bit(FEATURES, feature::CORRUPT)),
        ("of a time to come", with_bit(FEATURES, 1 << 40)),
        ("encrypted", encrypted),
        ("of another format", vmdk),
        ("raw", vec![0; 4096]),
        ("empty", Vec::new()),
    ] {
        let (ended, after) = if_plain(&image, format::PROBE, b"new");
        assert_eq!(ended, NOT_PLAIN, "an image that is {what}");
        assert!(after == image, "an image that is {what} was changed");
    }
    // A name for which the header has no room, and a format that somebody has given.
    assert_eq!(
        if_plain(&empty_image(&Shape { cluster_bits: 9, ..small() }), format::PROBE, &[b'n'; 1000]).0,
        NOT_PLAIN
    );
    assert_eq!(if_plain(&sound(), format::RAW, b"new").0, NOT_PLAIN);
    // A disk of another format that begins like a qcow2 image.
    let mut vdi = sound();
    vdi[64..68].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
    assert_eq!(if_plain(&vdi, format::PROBE, b"new"), (NOT_PLAIN, vdi));
    assert_eq!(if_plain(&sound(), format::PROBE, b"new").0, DONE);
}

#[test]
fn a_table_in_the_headers_cluster_is_not_overwritten() {
    let mut bitmaps = empty_image(&Shape { has_backing: false, ..small() });
    // The extension "bitmaps": one bitmap, whose directory lies in the header's cluster, and behind it.
    bitmaps[112..120].copy_from_slice(b"\x23\x85\x28\x75\0\0\0\x18");
    bitmaps[120..128].copy_from_slice(b"\0\0\0\x01\0\0\0\0");
    bitmaps[128..136].copy_from_slice(&32_u64.to_be_bytes());
    bitmaps[95] |= 1;
    for (what, image, at, fine) in [
        ("L1 table", sound(), 40, 3 * 4096),
        ("refcount table", sound(), 48, 4096),
        ("bitmap directory", bitmaps, 136, 4096),
    ] {
        let lies_at = |offset: u64| {
            let mut image = image.clone();
            image[at..at + 8].copy_from_slice(&offset.to_be_bytes());
            image
        };
        let unharmed = lies_at(0);
        assert_eq!(if_plain(&unharmed, format::PROBE, b"new"), (NOT_PLAIN, unharmed.clone()), "{what}");
        let (ended, after) = rebased(&unharmed, format::QCOW2, 0, b"new");
        assert_eq!(ended.0, outcome::FAILED, "{what}");
        assert!(after == unharmed, "{what}");
        assert_eq!(if_plain(&lies_at(fine), format::PROBE, b"new").0, DONE, "{what}");
    }
}

proptest! {
    #[test]
    fn the_header_becomes_that_of_the_ordinary_rebase(
        shape in shape(),
        name in prop::collection::vec(1..=255u8, 0..400),
        given in any::<bool>(),
    ) {
        let image = empty_image(&shape);
        let (ended, after) = if_plain(&image, if given { format::QCOW2 } else { format::PROBE }, &name);
        let (ordinary, wanted) = rebased(&image, format::QCOW2, 0, &name);
        prop_assert_eq!(ended, if ordinary == DONE { DONE } else { NOT_PLAIN });
        prop_assert!(after == wanted);
    }

    #[test]
    fn broken_headers_are_changed_as_ordinarily_or_not_at_all(
        shape in shape(),
        changes in prop::collection::vec((0..160usize, any::<u8>()), 1..4),
    ) {
        let mut image = empty_image(&shape);
        for (at, byte) in changes {
            image[at] = byte;
        }
        let (ended, after) = if_plain(&image, format::PROBE, b"new");
        if ended == DONE {
            prop_assert!((DONE, after) == rebased(&image, format::QCOW2, 0, b"new"));
        } else {
            prop_assert_eq!(ended, NOT_PLAIN);
            prop_assert!(after == image);
        }
    }
}
