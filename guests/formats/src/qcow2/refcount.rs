//! Refcounts within a refcount block, for all widths from 1 to 64 bits.
//!
//! Source: qcow2 format document, section "Host cluster management": widths of 8 bits and more are big-endian integers,
//! smaller ones are packed into bytes from the least significant bit on.

/// Reads refcount `index` of a block; `order` is the base-2 logarithm of the width in bits.
///
/// # Panics
/// If the block is shorter than the index asks for, or `order` is above 6.
#[must_use]
pub fn read(block: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let width = 1usize << order;
            let bit = index * width;
            u64::from(block[bit / 8] >> (bit % 8)) & ((1 << width) - 1)
        }
        3 => u64::from(block[index]),
        4 => u64::from(u16::from_be_bytes(array(block, index * 2))),
        5 => u64::from(u32::from_be_bytes(array(block, index * 4))),
        6 => u64::from_be_bytes(array(block, index * 8)),
        _ => unreachable!("refcount orders above 6 are refused when the header is read"),
    }
}

/// Writes refcount `index` of a block.
///
/// # Panics
/// If the block is shorter than the index asks for, `order` is above 6, or the value does not fit the width.
pub fn write(block: &mut [u8], order: u32, index: usize, value: u64) {
    const FITS: &str = "a refcount is checked against the width before it is stored";
    match order {
        0..=2 => {
            let width = 1usize << order;
            let bit = index * width;
            let mask = (1u8 << width) - 1;
            let value = u8::try_from(value).expect(FITS);
            assert!(value <= mask, "{FITS}");
            let byte = &mut block[bit / 8];
            *byte = (*byte & !(mask << (bit % 8))) | (value << (bit % 8));
        }
        3 => block[index] = u8::try_from(value).expect(FITS),
        4 => block[index * 2..][..2].copy_from_slice(&u16::try_from(value).expect(FITS).to_be_bytes()),
        5 => block[index * 4..][..4].copy_from_slice(&u32::try_from(value).expect(FITS).to_be_bytes()),
        6 => block[index * 8..][..8].copy_from_slice(&value.to_be_bytes()),
        _ => unreachable!("refcount orders above 6 are refused when the header is read"),
    }
}

fn array<const N: usize>(block: &[u8], offset: usize) -> [u8; N] {
    let mut raw = [0; N];
    raw.copy_from_slice(&block[offset..offset + N]);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_keeps_its_neighbours() {
        for order in 0..=6u32 {
            let max = u64::MAX >> (64 - (1u32 << order));
            let entries = (512 * 8) >> order;
            let mut block = [0u8; 512];
            for index in (0..entries).step_by(3) {
                write(&mut block, order, index, max);
            }
            for index in 0..entries {
                assert_eq!(
                    read(&block, order, index),
                    if index % 3 == 0 { max } else { 0 },
                    "order {order} index {index}"
                );
            }
            write(&mut block, order, 3, 0);
            assert_eq!((read(&block, order, 3), read(&block, order, 0)), (0, max));
        }
    }

    #[test]
    fn small_widths_start_at_the_low_bit() {
        assert_eq!(read(&[0b0000_0010], 0, 1), 1);
        assert_eq!(read(&[0b0000_1100], 1, 1), 3);
        assert_eq!(read(&[0xf0], 2, 1), 15);
    }
}
