//! Where everything ends up when a header is written.

use alloc::vec;
use alloc::vec::Vec;

use super::Image;
use crate::qcow2::extension::{BACKING_FORMAT, DATA_FILE_NAME};
use crate::qcow2::{
    Access, BitmapsPointer, CryptMethod, CryptoHeaderPointer, EncodeError, Header, encode_first_cluster,
};

fn header(image: &Image) -> Header {
    Header::parse(&image.bytes, Access::ReadWrite).unwrap()
}

fn based_on(mut header: Header, name: &[u8], format: &[u8]) -> Header {
    header.backing_name = Some(name.to_vec());
    header.extensions.backing_format = Some(format.to_vec()).filter(|format| !format.is_empty());
    header
}

/// Offset of the backing name in an encoded header, checked against its bytes.
fn name_offset(header: &Header) -> usize {
    let bytes = encode_first_cluster(header).unwrap();
    let offset = usize::try_from(u64::from_be_bytes(bytes[8..16].try_into().unwrap())).unwrap();
    let name = header.backing_name.as_deref().unwrap();
    assert_eq!(&bytes[offset..offset + name.len()], name);
    assert_eq!(bytes[16..20], u32::try_from(name.len()).unwrap().to_be_bytes());
    offset
}

#[test]
fn names_stand_where_they_always_did() {
    let v3 = || header(&Image::v3());
    let based = |header| based_on(header, b"base.qcow2", b"qcow2");
    assert_eq!(name_offset(&based(v3())), 528);
    assert_eq!(name_offset(&based_on(v3(), b"base.qcow2", b"")), 512);
    assert_eq!(name_offset(&based_on(v3(), b"base.qcow2", b"parallels")), 536);
    assert_eq!(name_offset(&based(header(&Image::v2()))), 96);
    for cluster_bits in [9, 12] {
        assert_eq!(name_offset(&based(Header { cluster_bits, ..v3() })), 136);
    }
    let mut with_bitmaps = based(v3());
    with_bitmaps.extensions.bitmaps =
        Some(BitmapsPointer { count: 1, directory_size_bytes: 32, directory_offset: 0x5_0000 });
    assert_eq!(name_offset(&with_bitmaps), 560);
    let mut with_data_file = based(v3());
    with_data_file.extensions.data_file_name = Some(b"disk.raw".to_vec());
    assert_eq!(name_offset(&with_data_file), 544);
    let mut with_luks = based(Header { crypt_method: CryptMethod::Luks, ..v3() });
    with_luks.extensions.crypto_header = Some(CryptoHeaderPointer { offset: 0x4_0000, length_bytes: 2_068_480 });
    assert_eq!(name_offset(&with_luks), 552);
}

#[test]
fn names_have_limits() {
    let small = Header { cluster_bits: 9, ..header(&Image::v3()) };
    let encode =
        |header: &Header, length| encode_first_cluster(&based_on(header.clone(), &vec![b'n'; length], b"qcow2"));
    assert!(encode(&small, 376).is_ok());
    assert_eq!(encode(&small, 377), Err(EncodeError::NoRoom));
    assert_eq!(encode(&small, 1024), Err(EncodeError::NameTooLong));
    assert!(encode(&header(&Image::v3()), 1023).is_ok());
    assert_eq!(encode(&header(&Image::v3()), 1024), Err(EncodeError::NameTooLong));
}

#[test]
fn a_detached_header_has_no_trace_of_a_name() {
    let mut image = Image::v3();
    image.backing_name(0x400, b"base.qcow2").extensions(112, &[(BACKING_FORMAT, b"qcow2")]);
    let mut detached = header(&image);
    detached.backing_name = None;
    detached.extensions.backing_format = None;
    let bytes = encode_first_cluster(&detached).unwrap();
    assert_eq!(bytes[8..20], [0; 12]);
    assert_eq!(bytes[112..116], 0x6803_f857u32.to_be_bytes());
    assert!(bytes[512..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_header_grows_to_112_bytes_and_keeps_what_follows() {
    let mut short = Image::v3();
    short.u32(100, 104);
    assert_eq!(encode_first_cluster(&header(&short)).unwrap()[100..104], 112u32.to_be_bytes());
    let mut long = Image::v3();
    long.u32(100, 128).put(112, b"ABCDEFGHIJKLMNOP");
    let bytes = encode_first_cluster(&header(&long)).unwrap();
    assert_eq!(bytes[100..104], 128u32.to_be_bytes());
    assert_eq!(&bytes[112..128], b"ABCDEFGHIJKLMNOP");
}

#[test]
fn unknown_extensions_come_out_in_reverse_and_junk_is_erased() {
    let mut image = Image::v3();
    image.bytes[112..].fill(0x55);
    let extensions: [(u32, &[u8]); 4] =
        [(0x1111_1111, b"abc"), (DATA_FILE_NAME, b"d"), (0x2222_2222, b"12345678"), (0x3333_3333, b"")];
    for (_, data) in extensions {
        assert!(data.len() <= 8);
    }
    image.extensions(112, &extensions);
    let bytes = encode_first_cluster(&header(&image)).unwrap();
    let unknown: Vec<u8> = [
        &[0x33, 0x33, 0x33, 0x33, 0, 0, 0, 0][..],
        &[0x22, 0x22, 0x22, 0x22, 0, 0, 0, 8],
        b"12345678",
        &[0x11, 0x11, 0x11, 0x11, 0, 0, 0, 3],
        b"abc\0\0\0\0\0",
        &[0; 8],
    ]
    .concat();
    let start = 112 + 16 + 392;
    assert_eq!(bytes[start..start + unknown.len()], unknown);
    assert!(bytes[start + unknown.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_long_format_name_is_cut() {
    let bytes = encode_first_cluster(&based_on(header(&Image::v3()), b"base", b"copy-before-write")).unwrap();
    assert_eq!(bytes[116..120], 15u32.to_be_bytes());
    assert_eq!(&bytes[120..136], b"copy-before-wri\0");
}

#[test]
fn feature_bits_are_written_as_they_are() {
    let mut image = Image::v3();
    image.u64(72, 1 | 16).u64(80, 0x31).u64(88, 0x8000_0000_0000_0002);
    let bytes = encode_first_cluster(&header(&image)).unwrap();
    assert_eq!(bytes[72..96], image.bytes[72..96]);
}
