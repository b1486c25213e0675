//! Which headers are understood, and which defect of the others is named.

use alloc::string::{String, ToString};
use alloc::vec;

use super::Image;
use crate::qcow2::extension::{BACKING_FORMAT, BITMAPS, CRYPTO_HEADER, DATA_FILE_NAME, FEATURE_NAMES};
use crate::qcow2::{Access, BitmapsPointer, CompressionType, CryptMethod, Header, HeaderError, UnknownExtension};

fn parse(image: &Image) -> Result<Header, HeaderError> {
    Header::parse(&image.bytes, Access::Inspect)
}

fn text(edit: impl Fn(&mut Image) -> &mut Image) -> String {
    let mut image = Image::v3();
    edit(&mut image);
    parse(&image).map_or_else(|error| error.to_string(), |_| "accepted".to_string())
}

#[test]
fn read_a_version_3_header() {
    let mut image = Image::v3();
    image
        .u64(72, 1 | 8 | 16)
        .u64(80, 1)
        .u64(88, 1 | 1 << 40)
        .u32(96, 6)
        .u32(100, 120)
        .put(104, &[1])
        .put(112, b"new part")
        .backing_name(0x400, b"base.qcow2");
    image.extensions(
        120,
        &[
            (0x1111_1111, b"one"),
            (BACKING_FORMAT, b"qcow2"),
            (BITMAPS, &[&[0, 0, 0, 2, 0, 0, 0, 0], &0x40u64.to_be_bytes()[..], &0x5_0000u64.to_be_bytes()].concat()),
            (0x2222_2222, b""),
        ],
    );
    let header = parse(&image).unwrap();
    assert_eq!((header.version, header.cluster_size_bytes(), header.virtual_size_bytes), (3, 1 << 16, 8 << 20));
    assert_eq!(header.backing_name.as_deref(), Some(&b"base.qcow2"[..]));
    assert_eq!(header.backing_name_offset, 0x400);
    assert_eq!(header.refcount_bits(), 64);
    assert_eq!(header.compression_type, CompressionType::Zstd);
    assert_eq!(header.unknown_fields, b"new part");
    assert!(header.is_dirty() && !header.is_corrupt() && header.has_lazy_refcounts() && header.has_extended_l2());
    assert!(header.has_unknown_autoclear() && !header.has_external_data_file() && !header.is_encrypted());
    assert_eq!((header.l2_entries_per_table(), header.subcluster_size_bytes()), (4096, 2048));
    assert_eq!((header.l1_entries, header.l1_entries_needed(), header.l1_offset), (1, 1, 0x30000));
    let extensions = &header.extensions;
    assert_eq!(extensions.backing_format.as_deref(), Some(&b"qcow2"[..]));
    let bitmaps = BitmapsPointer { count: 2, directory_size_bytes: 0x40, directory_offset: 0x5_0000 };
    assert_eq!(extensions.bitmaps, Some(bitmaps));
    let unknown = |kind, data: &[u8]| UnknownExtension { kind, data: data.to_vec() };
    assert_eq!(extensions.unknown, [unknown(0x1111_1111, b"one"), unknown(0x2222_2222, b"")]);
}

#[test]
fn read_a_version_2_header() {
    let mut image = Image::v2();
    image.backing_name(96, b"base.qcow2").extensions(72, &[(BACKING_FORMAT, b"qcow2")]);
    let header = parse(&image).unwrap();
    assert_eq!((header.version, header.header_length_bytes, header.refcount_bits()), (2, 72, 16));
    assert_eq!((header.incompatible_features, header.autoclear_features), (0, 0));
    assert_eq!(header.extensions.backing_format.as_deref(), Some(&b"qcow2"[..]));
    assert_eq!(header.backing_name.as_deref(), Some(&b"base.qcow2"[..]));
}

#[test]
fn say_how_many_bytes_are_needed() {
    assert_eq!(Header::first_cluster_bytes(&Image::v3().bytes[..512]), Ok(65536));
    assert_eq!(Header::needed_bytes(&Image::v3().bytes[..512]), Ok(512));
    assert_eq!(Header::needed_bytes(&Image::v3().bytes[..100]), Ok(65536));
    assert_eq!(Header::first_cluster_bytes(b"QFI"), Err(HeaderError::NotQcow2));
    assert_eq!(Header::first_cluster_bytes(b"QFI\xfb\0\0\0\x02"), Err(HeaderError::ClusterBits(0)));
}

#[test]
fn strings_end_at_a_zero_byte() {
    let mut image = Image::v3();
    image.backing_name(0x400, b"base\0junk").extensions(112, &[(BACKING_FORMAT, b"raw\0")]);
    let header = parse(&image).unwrap();
    assert_eq!(header.backing_name.as_deref(), Some(&b"base"[..]));
    assert_eq!(header.extensions.backing_format.as_deref(), Some(&b"raw"[..]));
    image.backing_name(0x400, b"\0junk");
    assert_eq!(parse(&image).unwrap().backing_name, None);
}

#[test]
fn a_data_file_name_needs_the_feature() {
    let mut image = Image::v3();
    image.extensions(112, &[(DATA_FILE_NAME, b"disk.raw")]);
    assert_eq!(parse(&image).unwrap().external_data_file_name(), None);
    image.u64(72, 4).u64(88, 2);
    let header = parse(&image).unwrap();
    assert_eq!(header.external_data_file_name(), Some(&b"disk.raw"[..]));
    assert!(header.has_raw_external_data_file());
}

#[test]
fn access_decides_what_has_to_be_right() {
    let mut corrupt = Image::v3();
    corrupt.u64(72, 2);
    let mut nameless = Image::v3();
    nameless.u64(72, 4);
    for (image, access, error) in [
        (&corrupt, Access::Inspect, None),
        (&corrupt, Access::ReadOnly, None),
        (&corrupt, Access::ReadWrite, Some("qcow2: Image is corrupt; cannot be opened read/write")),
        (&nameless, Access::Inspect, None),
        (&nameless, Access::ReadOnly, Some("'data-file' is required for this image")),
    ] {
        let found = Header::parse(&image.bytes, access).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), error);
    }
}

#[test]
fn stale_bitmaps_are_no_bitmaps() {
    let mut image = Image::v3();
    image.extensions(112, &[(BITMAPS, &[0; 24])]);
    assert_eq!(parse(&image).unwrap().extensions.bitmaps, None);
}

#[test]
fn encryption_with_luks_has_a_pointer() {
    let mut image = Image::v3();
    image
        .u32(32, 2)
        .extensions(112, &[(CRYPTO_HEADER, &[&0x4_0000u64.to_be_bytes()[..], &592u64.to_be_bytes()].concat())]);
    let header = parse(&image).unwrap();
    assert_eq!(header.crypt_method, CryptMethod::Luks);
    assert_eq!(
        header.extensions.crypto_header.map(|pointer| (pointer.offset, pointer.length_bytes)),
        Some((0x4_0000, 592))
    );
}

/// Defects in the order in which they are found: each is named although all later ones are there, too.
#[test]
fn the_first_defect_is_named() {
    type Edit = fn(&mut Image) -> &mut Image;
    let defects: [(Edit, &str); 22] = [
        (|i| i.put(0, b"X"), "Image is not in qcow2 format"),
        (|i| i.u32(4, 4), "Unsupported qcow2 version 4"),
        (|i| i.u32(20, 22), "Unsupported cluster size: 2^22"),
        (|i| i.u32(100, 103), "qcow2 header too short"),
        (|i| i.u32(100, 65544), "qcow2 header exceeds cluster size"),
        (|i| i.u64(8, 65537), "Invalid backing file offset"),
        (|i| i.put(104, &[2]), "qcow2: unknown compression type: 2"),
        (|i| i.u64(72, 0x20), "Unsupported qcow2 feature(s): Unknown incompatible feature: 20"),
        (|i| i.u32(96, 7), "Reference count entry width too large; may not exceed 64 bits"),
        (|i| i.u32(56, 0), "Image does not contain a reference count table"),
        (|i| i.u32(56, 129), "Reference count table too large"),
        (|i| i.u64(48, 0x10001), "Reference count table offset invalid"),
        (|i| i.u32(60, 65537), "Snapshot table too large"),
        (|i| i.u64(64, 0x10001), "Snapshot table offset invalid"),
        (|i| i.u32(36, (32 << 17) + 1), "Active L1 table too large"),
        (|i| i.u64(40, 0x10001), "Active L1 table offset invalid"),
        (|i| i.u32(36, 0), "L1 table is too small"),
        (|i| i.u64(40, 0x7fff_ffff_ffff_0000), "Could not read L1 table: Input/output error"),
        (|i| i.u64(48, 0x7fff_ffff_c000_0000), "Could not initialize refcount handling: Input/output error"),
        (|i| i.u32(32, u32::MAX), "Unsupported encryption method -1"),
        (|i| i.u32(112, 1).u32(116, 65000), "Header extension too large"),
        (|i| i.u64(8, 0x400).u32(16, 1024), "Backing file name too long"),
    ];
    for first in 0..defects.len() {
        let mut image = Image::v3();
        // Later defects first, so that where two use the same field the earlier one wins.
        for (edit, _) in defects[first..].iter().rev() {
            edit(&mut image);
        }
        let found = parse(&image).unwrap_err().to_string();
        assert_eq!(found, defects[first].1);
    }
}

#[test]
fn sizes_too_large_are_found_in_three_ways() {
    assert_eq!(text(|i| i.u64(24, (512 << 20) + 1)), "L1 table is too small");
    assert_eq!(text(|i| i.u64(24, 1 << 61)), "Image is too big");
    assert_eq!(text(|i| i.u64(24, u64::MAX)), "Could not refresh total sector count: File too large");
}

#[test]
fn compression_type_and_feature_bit_go_together() {
    assert_eq!(text(|i| i.u64(72, 8)), "qcow2: Compression type incompatible feature bit must not be set");
    assert_eq!(text(|i| i.put(104, &[1])), "qcow2: Compression type incompatible feature bit must be set");
    assert_eq!(text(|i| i.put(104, &[255]).u64(72, 8)), "qcow2: unknown compression type: 255");
    // A header that ends before the field has type zlib.
    assert_eq!(text(|i| i.u32(100, 104).put(104, &[1, 0, 0, 0, 0, 0, 0, 0, 0])), "accepted");
}

#[test]
fn unknown_features_are_named_by_the_image() {
    let entry = |bit: u8, name: &[u8]| {
        let mut entry = vec![0, bit];
        entry.extend(name);
        entry.resize(48, 0);
        entry
    };
    let names = [entry(7, b"seven"), entry(7, b"again"), entry(5, b""), entry(6, b"six")].concat();
    assert_eq!(
        text(|i| i.u64(72, 0xe0).extensions(112, &[(FEATURE_NAMES, &names)])),
        "Unsupported qcow2 feature(s): seven, Unknown incompatible feature: 60"
    );
    assert_eq!(
        text(|i| i.u64(72, 0x40).extensions(112, &[(FEATURE_NAMES, &entry(6, b"six"))])),
        "Unsupported qcow2 feature(s): six"
    );
    assert_eq!(
        text(|i| i
            .u64(72, 0x20)
            .extensions(112, &[(BACKING_FORMAT, &[b'q'; 16]), (FEATURE_NAMES, &entry(5, b"five"))])),
        "Unsupported qcow2 feature(s): Unknown incompatible feature: 20"
    );
}

#[test]
fn extensions_are_checked() {
    let bitmaps = |count: u32, reserved: u32, size: u64, offset: u64| {
        [&count.to_be_bytes()[..], &reserved.to_be_bytes(), &size.to_be_bytes(), &offset.to_be_bytes()].concat()
    };
    let with_bitmaps = |data: &[u8]| text(|i| i.u64(88, 1).extensions(112, &[(BITMAPS, data)]));
    assert_eq!(with_bitmaps(&[0; 8]), "bitmaps_ext: Invalid extension length");
    assert_eq!(with_bitmaps(&bitmaps(0, 1, 0, 0)), "bitmaps_ext: Reserved field is not zero");
    assert_eq!(
        with_bitmaps(&bitmaps(65536, 0, 24, 0x10000)),
        "bitmaps_ext: Image has 65536 bitmaps, exceeding the QEMU supported maximum of 65535"
    );
    assert_eq!(with_bitmaps(&bitmaps(0, 0, 0, 1)), "found bitmaps extension with zero bitmaps");
    assert_eq!(with_bitmaps(&bitmaps(1, 0, 1 << 40, 1)), "bitmaps_ext: invalid bitmap directory offset");
    assert_eq!(
        with_bitmaps(&bitmaps(1, 0, 67_107_841, 0x10000)),
        "bitmaps_ext: bitmap directory size (67107841) exceeds the maximum supported size (67107840)"
    );
    assert_eq!(
        text(|i| i.extensions(112, &[(BACKING_FORMAT, &[b'q'; 16])])),
        "ERROR: ext_backing_format: len=16 too large (>=16)"
    );
    assert_eq!(
        text(|i| i.extensions(112, &[(CRYPTO_HEADER, &[0; 16])])),
        "CRYPTO header extension only expected with LUKS encryption method"
    );
    let luks = |data: &[u8]| text(|i| i.u32(32, 2).extensions(112, &[(CRYPTO_HEADER, data)]));
    assert_eq!(luks(&[0; 24]), "CRYPTO header extension size 24, but expected size 16");
    assert_eq!(
        luks(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        "Encryption header offset '1' is not a multiple of cluster size '65536'"
    );
    assert_eq!(text(|i| i.u32(32, 2)), "Missing CRYPTO header for crypt method 2");
}

#[test]
fn extensions_end_where_the_backing_name_begins() {
    let mut image = Image::v3();
    // What would be an extension is the name.
    image.backing_name(112, &0xe279_2acau32.to_be_bytes());
    let header = parse(&image).unwrap();
    assert_eq!(header.backing_name.as_deref(), Some(&[0xe2, 0x79, 0x2a, 0xca][..]));
    assert_eq!(header.extensions.backing_format, None);
}
