//! Encrypts and decrypts by other code than the product's: key slots made from the LUKS On-Disk Format Specification
//! 1.2.3, XTS from IEEE 1619. Only the block cipher and the hash are the same libraries.
#![allow(clippy::cast_possible_truncation, reason = "images are small here")]

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Length of a key for aes-128 in XTS mode.
pub(crate) const KEY_BYTES: usize = 32;
/// Where the only key slot in use begins, and where it ends.
const MATERIAL: std::ops::Range<usize> = 4096..4096 + STRIPES * KEY_BYTES;
const STRIPES: usize = 4000;
/// The sectors that eight slots take.
const SLOT_SECTORS: u32 = 256;
/// Where the data of a volume begins.
pub(crate) const PAYLOAD: usize = (8 + 8 * SLOT_SECTORS as usize) * 512;

/// A LUKS header, with its one slot, that ends where the slot ends. One iteration is enough for a test.
pub(crate) fn luks_header(passphrase: &[u8], master_key: &[u8; KEY_BYTES]) -> Vec<u8> {
    let mut header = vec![0; MATERIAL.end];
    let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
    let salts = [[0x51; 32], [0xa7; 32]];
    put(0, b"LUKS\xba\xbe\0\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    put(104, &u32::try_from(PAYLOAD / 512).expect("small").to_be_bytes());
    put(108, &32u32.to_be_bytes());
    put(112, &first_block(master_key, &salts[0])[..20]);
    put(132, &salts[0]);
    put(164, &1u32.to_be_bytes());
    for slot in 0..8u32 {
        let start = 208 + 48 * slot as usize;
        put(start, &if slot == 0 { 0x00ac_71f3_u32 } else { 0xdead }.to_be_bytes());
        put(start + 4, &1u32.to_be_bytes());
        put(start + 8, &salts[1]);
        put(start + 40, &(8 + SLOT_SECTORS * slot).to_be_bytes());
        put(start + 44, &4000u32.to_be_bytes());
    }
    // All stripes but the last may be anything; here each is filled with its number.
    let mut material: Vec<u8> = (0..STRIPES - 1).flat_map(|stripe| [stripe as u8; KEY_BYTES]).collect();
    let mut mixed = [0; KEY_BYTES];
    for stripe in material.chunks(KEY_BYTES) {
        let whole: Vec<u8> = mixed.iter().zip(stripe).map(|(mixed, byte)| mixed ^ byte).collect();
        mixed = Sha256::new().chain_update(0u32.to_be_bytes()).chain_update(whole).finalize().into();
    }
    material.extend(mixed.iter().zip(master_key).map(|(mixed, byte)| mixed ^ byte));
    encrypt(&first_block(passphrase, &salts[1]), 0, &mut material);
    header[MATERIAL].copy_from_slice(&material);
    header
}

/// PBKDF2 with one iteration and one block.
fn first_block(passphrase: &[u8], salt: &[u8]) -> [u8; 32] {
    let keyed = Hmac::<Sha256>::new_from_slice(passphrase).expect("any length");
    keyed.chain_update(salt).chain_update(1u32.to_be_bytes()).finalize().into_bytes().into()
}

/// Encrypts whole sectors.
pub(crate) fn encrypt(key: &[u8; KEY_BYTES], sector: u64, bytes: &mut [u8]) {
    xts(key, sector, bytes, |cipher, block| cipher.encrypt_block(block.into()));
}

/// Decrypts whole sectors.
pub(crate) fn decrypt(key: &[u8; KEY_BYTES], sector: u64, bytes: &mut [u8]) {
    xts(key, sector, bytes, |cipher, block| cipher.decrypt_block(block.into()));
}

fn xts(key: &[u8; KEY_BYTES], sector: u64, bytes: &mut [u8], crypt: impl Fn(&Aes128, &mut [u8; 16])) {
    let cipher = Aes128::new_from_slice(&key[..16]).expect("16 bytes");
    let tweaker = Aes128::new_from_slice(&key[16..]).expect("16 bytes");
    for (number, sector) in (sector..).zip(bytes.chunks_mut(512)) {
        let mut tweak = u128::from(number).to_le_bytes();
        tweaker.encrypt_block((&mut tweak).into());
        for block in sector.as_chunks_mut::<16>().0 {
            let mixed = u128::from_le_bytes(*block) ^ u128::from_le_bytes(tweak);
            *block = mixed.to_le_bytes();
            crypt(&cipher, block);
            *block = (u128::from_le_bytes(*block) ^ u128::from_le_bytes(tweak)).to_le_bytes();
            let value = u128::from_le_bytes(tweak);
            tweak = ((value << 1) ^ if value >> 127 == 1 { 0x87 } else { 0 }).to_le_bytes();
        }
    }
}
