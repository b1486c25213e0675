//! The qcow header and the sizes that follow from it.

use super::{ENTRY_BYTES, QcowError};
use crate::bytes::{be_u32, be_u64};

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 48;
/// The most L2 tables, a limit of instar: each takes some bytes of memory.
pub(super) const TABLES_MAX: u64 = 1 << 20;
const MAGIC: &[u8] = b"QFI\xfb";
const SECTOR_BYTES: u64 = 512;
/// Limits of qemu-img.
const CLUSTER_BITS: core::ops::RangeInclusive<u8> = 9..=16;
const L2_BITS: core::ops::RangeInclusive<u8> = 6..=13;
const L1_ENTRIES_MAX: u64 = 0x7fff_ffff / ENTRY_BYTES;
const BACKING_NAME_BYTES_MAX: u32 = 1023;
const CRYPT_AES: u32 = 1;

/// A header whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sizes.
    pub geometry: Geometry,
    /// Size of the disk in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Where the L1 table lies.
    pub l1_offset: u64,
    /// Where the backing name lies and how long it is; `None` where there is none.
    pub backing_name: Option<(u64, u32)>,
    /// Whether the clusters are encrypted.
    pub is_encrypted: bool,
}

/// Sizes that follow from the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 9 to 16.
    pub cluster_bits: u8,
    /// 6 to 13.
    pub l2_bits: u8,
}

impl Geometry {
    /// 512 bytes to 64 KiB.
    #[must_use]
    pub const fn cluster_size_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Number of entries in an L2 table.
    #[must_use]
    pub const fn table_entries(&self) -> u64 {
        1 << self.l2_bits
    }

    /// Number of L1 entries for a disk of this size.
    #[must_use]
    pub const fn l1_entries(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.cluster_size_bytes() * self.table_entries())
    }
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a file.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn parse(bytes: &[u8]) -> Result<Self, QcowError> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(QcowError::NotQcow);
        }
        let field = |offset| be_u32(bytes, offset).unwrap_or(0);
        let long = |offset| be_u64(bytes, offset).unwrap_or(0);
        if field(4) != 1 {
            return Err(QcowError::Version(field(4)));
        }
        let (size, geometry) = (long(24), Geometry { cluster_bits: bytes[32], l2_bits: bytes[33] });
        if size <= 1 {
            return Err(QcowError::TooSmall);
        }
        if !CLUSTER_BITS.contains(&geometry.cluster_bits) {
            return Err(QcowError::ClusterSize);
        }
        if !L2_BITS.contains(&geometry.l2_bits) {
            return Err(QcowError::TableSize);
        }
        if field(36) > CRYPT_AES {
            return Err(QcowError::Encryption);
        }
        if i64::try_from(size).is_err()
            || geometry.l1_entries(size) > L1_ENTRIES_MAX
            || i64::try_from(long(40)).is_err()
        {
            return Err(QcowError::TooLarge);
        }
        if geometry.l1_entries(size) > TABLES_MAX {
            return Err(QcowError::TooManyTables);
        }
        let name_bytes = field(16);
        let has_name = long(8) != 0;
        if has_name && name_bytes > BACKING_NAME_BYTES_MAX {
            return Err(QcowError::BackingName);
        }
        Ok(Self {
            geometry,
            size_bytes: size / SECTOR_BYTES * SECTOR_BYTES,
            l1_offset: long(40),
            backing_name: has_name.then_some((long(8), name_bytes)),
            is_encrypted: field(36) == CRYPT_AES,
        })
    }

    /// Length of the L1 table in bytes.
    #[must_use]
    pub const fn l1_bytes(&self) -> u64 {
        self.geometry.l1_entries(self.size_bytes) * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
        bytes[24..32].copy_from_slice(&((8_u64 << 20) + 100).to_be_bytes());
        (bytes[32], bytes[33], bytes[47]) = (12, 9, 48);
        bytes
    }

    fn with(offset: usize, value: &[u8]) -> Result<Header, QcowError> {
        let mut bytes = header();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        Header::parse(&bytes)
    }

    #[test]
    fn read_a_header() {
        let header = Header::parse(&header()).unwrap();
        assert_eq!((header.size_bytes, header.l1_offset, header.l1_bytes()), (8 << 20, 48, 32));
        assert_eq!((header.backing_name, header.is_encrypted), (None, false));
        assert!(with(39, &[1]).unwrap().is_encrypted);
    }

    #[test]
    fn refuse_impossible_numbers() {
        assert_eq!(with(0, b"q"), Err(QcowError::NotQcow));
        assert_eq!(with(7, &[3]), Err(QcowError::Version(3)));
        assert_eq!(with(24, &1_u64.to_be_bytes()), Err(QcowError::TooSmall));
        assert_eq!(with(24, &u64::MAX.to_be_bytes()), Err(QcowError::TooLarge));
        assert_eq!(with(24, &(1_u64 << 42).to_be_bytes()), Err(QcowError::TooManyTables));
        assert_eq!(with(32, &[17]), Err(QcowError::ClusterSize));
        assert_eq!(with(33, &[14]), Err(QcowError::TableSize));
        assert_eq!(with(39, &[2]), Err(QcowError::Encryption));
        assert_eq!(with(8, &[0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 4, 0]), Err(QcowError::BackingName));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), 40), at in 8usize..40, value: u64) {
            let mut bytes = header();
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
            let _ = Header::parse(&bytes);
            bytes[8..].copy_from_slice(&tail);
            let _ = Header::parse(&bytes);
        }
    }
}
