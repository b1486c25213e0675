//! An encrypted image that qemu-img 10.0.2 made: 64 KiB in clusters of 4096 bytes, on `base.raw`; aes-128, xts, plain64,
//! sha256. It holds 6 KiB of 0x5a from 8 KiB on, written by qemu-io, and behind these 2 KiB of zeros, copied from its base.
//!
//! `encrypted.sectors` holds its length (8 bytes) and its sectors that are not all zero: number (4 bytes, both
//! little-endian) and 512 bytes each.

/// What opens the image.
pub(crate) const PASSPHRASE: &[u8] = b"open sesame";

/// The bytes of the image.
pub(crate) fn encrypted_image() -> Vec<u8> {
    let stored = include_bytes!("encrypted.sectors");
    let (length, sectors) = stored.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    let mut image = vec![0; usize::try_from(length).expect("a short image")];
    for sector in sectors.chunks_exact(4 + 512) {
        let (number, bytes) = sector.split_at(4);
        let place = u32::from_le_bytes(number.try_into().expect("four bytes")) as usize * 512;
        let length = bytes.len().min(image.len() - place);
        image[place..place + length].copy_from_slice(&bytes[..length]);
    }
    image
}
