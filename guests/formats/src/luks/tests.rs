use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

/// A header as it is made for aes-256-xts: key material of 504 sectors a slot, from sector 8.
fn header() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..6].copy_from_slice(&MAGIC);
    bytes[7] = 1;
    put(&mut bytes, 8, b"aes");
    put(&mut bytes, 40, b"xts-plain64");
    put(&mut bytes, 72, b"sha256");
    put(&mut bytes, 104, &4040u32.to_be_bytes());
    put(&mut bytes, 108, &64u32.to_be_bytes());
    put(&mut bytes, 164, &10_659u32.to_be_bytes());
    put(&mut bytes, 168, b"3d1d1952-bf2a-4a15-a567-10eab5c01c2b");
    for index in 0..8u32 {
        let slot = 208 + 48 * index as usize;
        let state = if index == 0 { SLOT_ENABLED } else { SLOT_DISABLED };
        put(&mut bytes, slot, &state.to_be_bytes());
        put(&mut bytes, slot + 4, &if index == 0 { 45_010u32 } else { 0 }.to_be_bytes());
        put(&mut bytes, slot + 40, &(8 + 504 * index).to_be_bytes());
        put(&mut bytes, slot + 44, &STRIPES.to_be_bytes());
    }
    bytes
}

fn put(bytes: &mut [u8], offset: usize, data: &[u8]) {
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn text_with(edits: &[(usize, &[u8])]) -> alloc::string::String {
    let mut bytes = header();
    for (offset, data) in edits {
        put(&mut bytes, *offset, data);
    }
    LuksHeader::parse(&bytes).map_or_else(|error| error.to_string(), |header| header.cipher.algorithm)
}

#[test]
fn read_a_header() {
    let header = LuksHeader::parse(&header()).unwrap();
    let cipher = Cipher { algorithm: "aes-256".to_string(), mode: "xts", iv_generator: "plain64", iv_hash: None };
    assert_eq!((header.cipher, header.hash), (cipher, "sha256"));
    assert_eq!((header.payload_offset_bytes, header.master_key_iterations), (2_068_480, 10_659));
    assert_eq!(header.uuid, b"3d1d1952-bf2a-4a15-a567-10eab5c01c2b");
    let slot = |index: usize| (header.slots[index].is_active, header.slots[index].key_offset_bytes);
    assert_eq!((slot(0), slot(1), slot(7)), ((true, 4096), (false, 262_144), (false, 1_810_432)));
}

#[test]
fn read_cipher_modes() {
    for (cipher, mode, key_bytes, algorithm) in [
        (&b"aes\0"[..], &b"cbc-essiv:sha256\0"[..], 16u32, "aes-128"),
        (b"twofish\0", b"ctr-plain\0", 16, "twofish-128"),
        (b"serpent\0", b"xts-plain64\0", 32, "serpent-128"),
        (b"cast5\0", b"cbc-plain64\0", 16, "cast5-128"),
        (b"aes\0", b"xts-plain64:sha256\0", 48, "aes-192"),
    ] {
        assert_eq!(text_with(&[(8, cipher), (40, mode), (108, &key_bytes.to_be_bytes())]), algorithm);
    }
}

#[test]
fn name_the_first_defect() {
    let key_32 = (108, &32u32.to_be_bytes()[..]);
    for (edits, text) in [
        (&[(0, &b"X"[..])][..], "Volume is not in LUKS format"),
        (&[(6, &[0, 2])], "LUKS version 2 is not supported"),
        (&[(8, &[b'a'; 32])], "LUKS header cipher name is not NUL terminated"),
        (&[(72, &[b's'; 32])], "LUKS header hash spec is not NUL terminated"),
        (&[(104, &1u32.to_be_bytes())], "LUKS payload is overlapping with the header"),
        (&[(164, &[0; 4])], "LUKS key iteration count is zero"),
        (&[(252, &[0; 4])], "Keyslot 0 is corrupted (stripes 0 != 4000)"),
        (&[(256, &[0; 4])], "Keyslot 1 state (active/disable) is corrupted"),
        (&[(212, &[0; 4])], "Keyslot 0 iteration count is zero"),
        (&[(248, &[0; 4])], "Keyslot 0 is overlapping with the LUKS header"),
        (&[(104, &4039u32.to_be_bytes())], "Keyslot 7 is overlapping with the encrypted payload"),
        (&[(248, &511u32.to_be_bytes())], "Keyslots 0 and 1 are overlapping in the header"),
        (&[(40, b"xts\0")], "Unexpected cipher mode string format 'xts'"),
        (&[(40, b"foo-foo:foo\0")], "Hash algorithm 'foo' not supported"),
        (&[(40, b"foo-foo\0")], "Cipher mode 'foo' not supported"),
        (&[(40, b"xts-benbi\0")], "IV generator 'benbi' not supported"),
        (&[(40, b"xts-essiv\0")], "Missing IV generator hash specification"),
        (&[(8, b"sm4\0")], "Algorithm 'sm4' with key size 32 bytes not supported"),
        (&[key_32, (40, b"cbc-essiv:sha1\0")], "No AES cipher with key size 20 available"),
        (&[(8, b"cast5\0"), key_32, (40, b"xts-essiv:sha1\0")], "Cipher cast5-128 not supported with essiv"),
    ] {
        assert_eq!(text_with(edits), text);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = LuksHeader::parse(&bytes);
    }

    #[test]
    fn no_mutation_panics(edits in proptest::collection::vec((0..HEADER_BYTES, any::<u8>()), 0..12)) {
        let mut bytes = header();
        for (offset, byte) in edits {
            bytes[offset] = byte;
        }
        let _ = LuksHeader::parse(&bytes);
    }
}
