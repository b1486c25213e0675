//! The footer, which every vpc file ends with and a growing disk's file also begins with.

use super::{SECTOR_BYTES, VpcError};
use crate::bytes::{array, be_u16, be_u32, be_u64};

/// Length of the footer in bytes.
pub const FOOTER_BYTES: usize = 512;
/// What a footer begins with.
pub const COOKIE: &[u8] = b"conectix";
const CHECKSUM_OFFSET: usize = 64;
/// The largest disk in sectors, a limit of qemu-img: 2040 GiB.
const SECTORS_MAX: u64 = 0xff00_0000;
/// The largest disk that cylinders, heads and sectors can tell.
const GEOMETRY_SECTORS_MAX: u64 = 65535 * 16 * 255;
/// Programs whose recorded size counts; with all others cylinders, heads and sectors do, as in Virtual PC.
const SIZE_COUNTS: [&[u8; 4]; 6] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"];

/// How the disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes of the disk, then the footer.
    Fixed,
    /// Blocks, which come as they are written.
    Growing,
}

/// A footer whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How the disk is stored.
    pub kind: Kind,
    /// Size of the disk in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Where a growing disk's header lies.
    pub header_offset: u64,
}

impl Footer {
    /// Reads [`FOOTER_BYTES`] from the start or the end of a file.
    ///
    /// # Errors
    /// If it is no footer, or one of a disk that nobody here reads.
    pub fn parse(bytes: &[u8]) -> Result<Self, VpcError> {
        if bytes.len() < FOOTER_BYTES || !bytes.starts_with(COOKIE) {
            return Err(VpcError::NotVpc);
        }
        if be_u32(bytes, CHECKSUM_OFFSET) != Some(checksum(bytes)) {
            return Err(VpcError::Checksum);
        }
        let kind = match be_u32(bytes, 60).unwrap_or(0) {
            2 => Kind::Fixed,
            3 => Kind::Growing,
            4 => return Err(VpcError::Differencing),
            other => return Err(VpcError::Kind(other)),
        };
        let creator: [u8; 4] = array(bytes, 28).unwrap_or_default();
        let cylinders = u64::from(be_u16(bytes, 56).unwrap_or(0));
        let by_geometry = cylinders * u64::from(bytes[58]) * u64::from(bytes[59]);
        let sectors = if SIZE_COUNTS.contains(&&creator) || by_geometry == GEOMETRY_SECTORS_MAX {
            be_u64(bytes, 48).unwrap_or(0) / SECTOR_BYTES
        } else {
            by_geometry
        };
        if sectors > SECTORS_MAX {
            return Err(VpcError::TooLarge);
        }
        Ok(Self { kind, size_bytes: sectors * SECTOR_BYTES, header_offset: be_u64(bytes, 16).unwrap_or(0) })
    }
}

/// The complement of the sum of a footer's bytes; those of the checksum itself count as zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let counted = |(offset, byte): (usize, &u8)| {
        if (CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4).contains(&offset) { 0 } else { u32::from(*byte) }
    };
    !bytes[..FOOTER_BYTES].iter().enumerate().map(counted).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn footer() -> Vec<u8> {
        let mut bytes = vec![0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(COOKIE);
        bytes[22..24].copy_from_slice(&[2, 0]);
        bytes[28..32].copy_from_slice(b"qemu");
        bytes[48..56].copy_from_slice(&(10_u64 << 20).to_be_bytes());
        bytes[56..64].copy_from_slice(&[1, 0x2e, 4, 17, 0, 0, 0, 3]);
        bytes
    }

    fn parse(bytes: &mut [u8]) -> Result<Footer, VpcError> {
        let sum = checksum(bytes).to_be_bytes();
        bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&sum);
        Footer::parse(bytes)
    }

    #[test]
    fn the_creator_decides_which_size_counts() {
        let mut bytes = footer();
        let wanted = Footer { kind: Kind::Growing, size_bytes: 302 * 4 * 17 * 512, header_offset: 512 };
        assert_eq!(parse(&mut bytes), Ok(wanted.clone()));
        bytes[28..32].copy_from_slice(b"win ");
        assert_eq!(parse(&mut bytes), Ok(Footer { size_bytes: 10 << 20, ..wanted.clone() }));
        bytes[28..32].copy_from_slice(b"vpc ");
        bytes[56..60].copy_from_slice(&[255, 255, 16, 255]);
        assert_eq!(parse(&mut bytes), Ok(Footer { size_bytes: 10 << 20, ..wanted }));
    }

    #[test]
    fn refuse_what_nobody_reads() {
        let with = |offset: usize, value: u8| {
            let mut bytes = footer();
            bytes[offset] = value;
            parse(&mut bytes).unwrap_err()
        };
        assert_eq!(with(0, 0), VpcError::NotVpc);
        assert_eq!(with(63, 4), VpcError::Differencing);
        assert_eq!(with(63, 5), VpcError::Kind(5));
        assert_eq!(Footer::parse(&footer()), Err(VpcError::Checksum));
        let mut bytes = footer();
        bytes[28..32].copy_from_slice(b"win ");
        bytes[48] = 1;
        assert_eq!(parse(&mut bytes), Err(VpcError::TooLarge));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), FOOTER_BYTES - 8)) {
            let mut bytes = footer();
            bytes[8..].copy_from_slice(&tail);
            let _ = parse(&mut bytes);
            bytes[63] = 2;
            let _ = parse(&mut bytes);
        }
    }
}
