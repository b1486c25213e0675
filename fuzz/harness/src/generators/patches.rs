//! Sound images with a few fields set to values at the edges of what their types can hold.

use arbitrary::{Result, Unstructured};

use super::chain::{self, Image};

/// Values at which arithmetic breaks first.
pub(super) const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x1ff,
    0x200,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    (1 << 56) - 512,
    1 << 62,
    (1 << 62) | 512,
    1 << 63,
    (1 << 63) | 512,
    u64::MAX - 511,
    u64::MAX,
];

/// The bytes of a sound qcow2 image with up to four fields changed.
///
/// # Errors
/// If the fuzzer's bytes run out.
pub fn qcow2(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (mut storage, _) = chain::build(&[Image::qcow2(u)?]);
    let mut bytes = storage.devices.remove(0);
    for _ in 0..u.int_in_range(1..=4)? {
        change(u, &mut bytes, 0)?;
    }
    Ok(bytes)
}

/// Changes a field of an image that has a second header at `header`.
pub(super) fn change(u: &mut Unstructured<'_>, bytes: &mut [u8], header: usize) -> Result<()> {
    // Most fields lie in the header and at the start of tables, which begin at clusters.
    let offset = match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=127)?,
        1 => u.int_in_range(0..=bytes.len() / 512)? * 512 + u.int_in_range(0..=31)? * 8,
        2 => header + u.int_in_range(0..=591)?,
        _ => u.int_in_range(0..=bytes.len())?,
    };
    let value = match u.int_in_range(0..=2)? {
        0 => *u.choose(&EDGES)?,
        1 => (u.int_in_range(0..=bytes.len() as u64 / 512)? * 512) | *u.choose(&[0, 1 << 63, 1 << 62])?,
        _ => u.arbitrary()?,
    };
    let width = *u.choose(&[1, 2, 4, 8])?;
    if let Some(place) = bytes.get_mut(offset..offset + width) {
        place.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }
    Ok(())
}
