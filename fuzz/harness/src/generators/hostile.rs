//! The hostile corpus: small sound images with every field and every table entry set to values at the edges, one at a time, and
//! then by two.

use super::patches::EDGES;
use super::seeds::Seed;

/// Fields lie at every multiple of this in the first sector, and at every multiple of eight elsewhere.
const HEADER_STEP_BYTES: usize = 4;
const SECTOR_BYTES: usize = 512;

/// What becomes of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// First byte of the field.
    pub offset: usize,
    /// Its length in bytes, 4 or 8.
    pub width: usize,
    /// What it is set to.
    pub value: u64,
    /// Whether the first byte is the most significant one.
    pub is_big_endian: bool,
}

impl Change {
    fn apply(&self, bytes: &mut [u8]) {
        let raw = self.value.to_le_bytes();
        if let Some(place) = bytes.get_mut(self.offset..self.offset + self.width) {
            place.copy_from_slice(&raw[..self.width]);
            if self.is_big_endian {
                place.reverse();
            }
        }
    }
}

/// Where fields may lie: the first sector, and every word in sectors that hold more than one value.
fn fields(image: &[u8]) -> Vec<(usize, usize)> {
    let mut fields: Vec<(usize, usize)> =
        (0..SECTOR_BYTES).step_by(HEADER_STEP_BYTES).flat_map(|offset| [(offset, 4), (offset, 8)]).collect();
    for (sector, bytes) in image.chunks_exact(SECTOR_BYTES).enumerate().skip(1) {
        if bytes.iter().any(|byte| *byte != bytes[0]) {
            let start = sector * SECTOR_BYTES;
            fields.extend((start..start + SECTOR_BYTES).step_by(8).flat_map(|offset| [(offset, 4), (offset, 8)]));
        }
    }
    fields
}

/// All changes of one field of an image.
#[must_use]
pub fn changes(image: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    for (offset, width) in fields(image) {
        for value in EDGES {
            let value = if width == 4 { value & 0xffff_ffff } else { value };
            for is_big_endian in [false, true] {
                let change = Change { offset, width, value, is_big_endian };
                let is_palindrome = value == 0 || value.to_le_bytes()[..width].iter().all(|byte| *byte == 0xff);
                if !(is_big_endian && is_palindrome) {
                    changes.push(change);
                }
            }
        }
    }
    changes
}

/// Image number `number` of the corpus that is made from a seed: first all single changes, spread over the image, then pairs.
#[must_use]
pub fn image(seed: &Seed, changes: &[Change], number: u64) -> Vec<u8> {
    let mut bytes = seed.bytes.clone();
    let count = changes.len() as u64;
    // A stride that shares no factor with any count below it: a part of the corpus is a sample of the whole image.
    let pick = |number: u64| changes[usize::try_from(number.wrapping_mul(2_147_483_647) % count).unwrap_or(0)];
    pick(number % count).apply(&mut bytes);
    if number >= count {
        pick(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7).apply(&mut bytes);
    }
    bytes
}
