//! Encrypted images with a few fields changed, and what opens them. Key derivation stays cheap, so that a fuzzer's time goes
//! to what lies behind the key.

use arbitrary::{Result, Unstructured};

use super::chain::Image;
use super::patches;
use crate::images::{encrypted, volume};
use crate::maker::KEY_BYTES;

/// What the data is encrypted with.
pub const KEY: [u8; KEY_BYTES] = [0x1c; KEY_BYTES];
/// Where a LUKS header has how often the master key is hashed, and where the first of its eight slots has how often the
/// passphrase is (LUKS On-Disk Format Specification 1.2.3).
const MASTER_KEY_ITERATIONS: usize = 164;
const SLOT_ITERATIONS: usize = 212;
const SLOT_BYTES: usize = 48;
const SLOTS: usize = 8;
/// The largest volume in sectors of 512 bytes.
const VOLUME_SECTORS_MAX: u64 = 256;

/// A LUKS volume of zeros with up to four fields changed; tells whether there are any.
///
/// # Errors
/// If the fuzzer's bytes run out.
pub fn luks(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, bool)> {
    let image = volume(u.int_in_range(1..=VOLUME_SECTORS_MAX)? * 512, &KEY);
    changed(u, image, 0)
}

/// An encrypted qcow2 image, in which nothing is allocated yet, with up to four fields changed; tells whether there are any.
///
/// # Errors
/// If the fuzzer's bytes run out.
pub fn qcow2(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, bool)> {
    let plain = Image::qcow2(u)?.empty_for_encryption();
    let header = plain.len();
    changed(u, encrypted(plain, &KEY), header)
}

/// Changes up to four fields. The LUKS header at `header` keeps its iterations.
fn changed(u: &mut Unstructured<'_>, image: Vec<u8>, header: usize) -> Result<(Vec<u8>, bool)> {
    let mut bytes = image.clone();
    for _ in 0..u.int_in_range(0..=4)? {
        patches::change(u, &mut bytes, header)?;
    }
    let slots = (0..SLOTS).map(|slot| SLOT_ITERATIONS + slot * SLOT_BYTES);
    for place in slots.chain([MASTER_KEY_ITERATIONS]) {
        let place = header + place..header + place + 4;
        bytes[place.clone()].copy_from_slice(&image[place]);
    }
    let is_changed = bytes != image;
    Ok((bytes, is_changed))
}
