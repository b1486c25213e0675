//! The header of a growing disk.

use super::{SECTOR_BYTES, VpcError};
use crate::bytes::{be_u32, be_u64};

/// Length of the header in bytes.
pub const SPARSE_HEADER_BYTES: usize = 1024;
const COOKIE: &[u8] = b"cxsparse";

/// A growing disk's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseHeader {
    /// Where the block table lies.
    pub table_offset: u64,
    /// Number of its entries.
    pub blocks: u32,
    /// Length of a block's data in bytes: a power of two of at least 512.
    pub block_size_bytes: u64,
}

impl SparseHeader {
    /// Reads [`SPARSE_HEADER_BYTES`]; the disk is `size_bytes` long.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn parse(bytes: &[u8], size_bytes: u64) -> Result<Self, VpcError> {
        if bytes.len() < SPARSE_HEADER_BYTES || !bytes.starts_with(COOKIE) {
            return Err(VpcError::NoHeader);
        }
        let (blocks, block_size) = (be_u32(bytes, 28).unwrap_or(0), be_u32(bytes, 32).unwrap_or(0));
        let block_size_bytes = u64::from(block_size);
        if !block_size.is_power_of_two() || block_size_bytes < SECTOR_BYTES {
            return Err(VpcError::BlockSize(block_size));
        }
        if u64::from(blocks) * block_size_bytes < size_bytes {
            return Err(VpcError::TableTooSmall);
        }
        Ok(Self { table_offset: be_u64(bytes, 16).unwrap_or(0), blocks, block_size_bytes })
    }

    /// Length in bytes of the bitmap before each block's data, in whole sectors.
    #[must_use]
    pub const fn bitmap_bytes(&self) -> u64 {
        (self.block_size_bytes / SECTOR_BYTES).div_ceil(8).next_multiple_of(SECTOR_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn read_a_header() {
        let mut bytes = vec![0; SPARSE_HEADER_BYTES];
        bytes[..8].copy_from_slice(COOKIE);
        bytes[22] = 6;
        (bytes[31], bytes[33]) = (6, 0x20);
        let header = SparseHeader::parse(&bytes, 10 << 20).unwrap();
        assert_eq!((header.table_offset, header.blocks, header.block_size_bytes), (1536, 6, 2 << 20));
        assert_eq!(header.bitmap_bytes(), 512);
        assert_eq!(SparseHeader::parse(&bytes, (12 << 20) + 1), Err(VpcError::TableTooSmall));
        bytes[35] = 1;
        assert_eq!(SparseHeader::parse(&bytes, 0), Err(VpcError::BlockSize(0x20_0001)));
        bytes[0] = 0;
        assert_eq!(SparseHeader::parse(&bytes, 0), Err(VpcError::NoHeader));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), 40), size: u64) {
            let mut bytes = vec![0; SPARSE_HEADER_BYTES];
            bytes[..8].copy_from_slice(COOKIE);
            bytes[8..48].copy_from_slice(&tail);
            let _ = SparseHeader::parse(&bytes, size);
        }
    }
}
