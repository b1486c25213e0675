//! The parallels header.

use super::{ENTRY_BYTES, ParallelsError};
use crate::bytes::{le_u32, le_u64};

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 64;
const MAGIC: &[u8] = b"WithoutFreeSpace";
const MAGIC_EXTENDED: &[u8] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
const SECTOR_BYTES: u64 = 512;
const ENTRIES_MAX: u32 = 0x7fff_ffff / 4;
const CLUSTER_SECTORS_MAX: u32 = 0x7fff_ffff / 512;

/// A header whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Length of a cluster in bytes, a multiple of 512 and not necessarily a power of two.
    pub cluster_size_bytes: u64,
    /// Number of entries of the catalogue.
    pub entries: u32,
    /// What an entry counts, in bytes: sectors, or clusters.
    pub entry_unit_bytes: u64,
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a file.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParallelsError> {
        let field = |offset| le_u32(bytes, offset).unwrap_or(0);
        let is_extended = bytes.starts_with(MAGIC_EXTENDED);
        if bytes.len() < HEADER_BYTES || !(is_extended || bytes.starts_with(MAGIC)) || field(16) != VERSION {
            return Err(ParallelsError::NotParallels);
        }
        let (cluster_sectors, entries) = (field(28), field(32));
        if cluster_sectors == 0 {
            return Err(ParallelsError::ZeroTracks);
        }
        if cluster_sectors > CLUSTER_SECTORS_MAX {
            return Err(ParallelsError::TracksTooLarge);
        }
        if entries > ENTRIES_MAX {
            return Err(ParallelsError::CatalogTooLarge);
        }
        let recorded = le_u64(bytes, 36).unwrap_or(0);
        let sectors = if is_extended { recorded } else { recorded & u64::from(u32::MAX) };
        let cluster_size_bytes = u64::from(cluster_sectors) * SECTOR_BYTES;
        let size_bytes = sectors.checked_mul(SECTOR_BYTES).filter(|size| i64::try_from(*size).is_ok());
        let size_bytes = size_bytes.ok_or(ParallelsError::TooLarge)?;
        if size_bytes.div_ceil(cluster_size_bytes) > entries.into() {
            return Err(ParallelsError::CatalogTooSmall);
        }
        let entry_unit_bytes = if is_extended { cluster_size_bytes } else { SECTOR_BYTES };
        Ok(Self { size_bytes, cluster_size_bytes, entries, entry_unit_bytes })
    }

    /// Length of the catalogue in bytes.
    #[must_use]
    pub fn catalog_bytes(&self) -> u64 {
        u64::from(self.entries) * ENTRY_BYTES
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
        bytes[..16].copy_from_slice(MAGIC_EXTENDED);
        for (offset, value) in [(16, 2_u32), (28, 2048), (32, 8), (36, 16384)] {
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_magic_says_what_entries_count() {
        let mut bytes = header();
        let wanted = Header { size_bytes: 8 << 20, cluster_size_bytes: 1 << 20, entries: 8, entry_unit_bytes: 1 << 20 };
        assert_eq!(Header::parse(&bytes), Ok(wanted.clone()));
        bytes[..16].copy_from_slice(MAGIC);
        bytes[40] = 1;
        assert_eq!(Header::parse(&bytes), Ok(Header { entry_unit_bytes: 512, ..wanted }));
    }

    #[test]
    fn refuse_impossible_numbers() {
        let with = |offset: usize, value: u32| {
            let mut bytes = header();
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            Header::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 0), ParallelsError::NotParallels);
        assert_eq!(with(16, 1), ParallelsError::NotParallels);
        assert_eq!(with(28, 0), ParallelsError::ZeroTracks);
        assert_eq!(with(28, u32::MAX), ParallelsError::TracksTooLarge);
        assert_eq!(with(32, u32::MAX), ParallelsError::CatalogTooLarge);
        assert_eq!(with(32, 7), ParallelsError::CatalogTooSmall);
        assert_eq!(with(40, u32::MAX), ParallelsError::TooLarge);
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), HEADER_BYTES - 20)) {
            let mut bytes = header();
            bytes[20..].copy_from_slice(&tail);
            let _ = Header::parse(&bytes);
        }
    }
}
