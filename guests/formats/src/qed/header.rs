//! The qed header and the sizes that follow from it.

use alloc::vec::Vec;

use super::{ENTRY_BYTES, QedError};
use crate::bytes::{le_u32, le_u64, until_zero};

/// Length of the header's fixed part in bytes; the backing name lies behind it, in the header's clusters.
pub const HEADER_BYTES: usize = 64;
/// Where the header says how large the disk is.
pub const IMAGE_SIZE_OFFSET: u64 = 48;
/// Where the header has its autoclear bits.
pub const AUTOCLEAR_OFFSET: u64 = 32;
/// The most L2 tables, a limit of instar: each takes some bytes of memory.
pub const TABLES_MAX: u64 = 1 << 20;
const FEATURES_OFFSET: usize = 16;
const MAGIC: &[u8] = b"QED\0";
const CLUSTER_SIZES: core::ops::RangeInclusive<u32> = 4096..=64 << 20;
const TABLE_SIZES: core::ops::RangeInclusive<u32> = 1..=16;
/// The longest backing name, in bytes.
pub const BACKING_NAME_BYTES_MAX: u32 = 1023;
const SECTOR_BYTES: u64 = 512;

/// Bits of [`Header::features`]; whoever does not know one must not touch the image.
pub mod feature {
    /// There is a backing name.
    pub const BACKING_FILE: u64 = 1;
    /// The image was not closed: clusters may be lost, and entries may point behind the end of the file.
    pub const NEED_CHECK: u64 = 1 << 1;
    /// The backing file is raw, whatever it looks like.
    pub const BACKING_IS_RAW: u64 = 1 << 2;
    /// All that are known.
    pub const KNOWN: u64 = BACKING_FILE | NEED_CHECK | BACKING_IS_RAW;
}

/// A header whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sizes.
    pub geometry: Geometry,
    /// Bits of [`feature`].
    pub features: u64,
    /// Bits that whoever writes the image clears.
    pub autoclear_features: u64,
    /// Where the L1 table lies.
    pub l1_offset: u64,
    /// Size of the disk in bytes, a multiple of 512.
    pub image_size_bytes: u64,
    /// Where the backing name lies and how long it is; `None` where there is none.
    pub backing_name: Option<(u64, u32)>,
}

/// Sizes that follow from the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// A power of two from 4 KiB to 64 MiB.
    pub cluster_size_bytes: u64,
    /// Length of the L1 table and of each L2 table in bytes.
    pub table_bytes: u64,
    /// Length of the header in bytes, in whole clusters.
    pub header_bytes: u64,
}

impl Geometry {
    /// Number of entries in a table.
    #[must_use]
    pub const fn table_entries(&self) -> u64 {
        self.table_bytes / ENTRY_BYTES
    }

    /// Whether a disk can be as large.
    #[must_use]
    pub fn holds(&self, image_size_bytes: u64) -> bool {
        let coverage = u128::from(self.table_entries()) * u128::from(self.table_entries());
        image_size_bytes.is_multiple_of(SECTOR_BYTES)
            && i64::try_from(image_size_bytes).is_ok()
            && u128::from(image_size_bytes) <= coverage * u128::from(self.cluster_size_bytes)
    }

    /// Number of L2 tables that a disk of this size can have.
    #[must_use]
    pub const fn tables_for(&self, image_size_bytes: u64) -> u64 {
        image_size_bytes.div_ceil(self.cluster_size_bytes).div_ceil(self.table_entries())
    }
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a file.
    ///
    /// # Errors
    /// If the numbers contradict each other or go beyond what the format or instar allows.
    pub fn parse(bytes: &[u8]) -> Result<Self, QedError> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(QedError::NotQed);
        }
        let field = |offset| le_u32(bytes, offset).unwrap_or(0);
        let long = |offset| le_u64(bytes, offset).unwrap_or(0);
        let (cluster_size, table_size, header_size) = (field(4), field(8), field(12));
        let features = long(FEATURES_OFFSET);
        if features & !feature::KNOWN != 0 {
            return Err(QedError::Features(features & !feature::KNOWN));
        }
        if !cluster_size.is_power_of_two() || !CLUSTER_SIZES.contains(&cluster_size) {
            return Err(QedError::ClusterSize(cluster_size));
        }
        if !table_size.is_power_of_two() || !TABLE_SIZES.contains(&table_size) {
            return Err(QedError::TableSize(table_size));
        }
        let header_bytes = header_size.checked_mul(cluster_size).filter(|bytes| *bytes != 0);
        let header_bytes = u64::from(header_bytes.ok_or(QedError::HeaderSize(header_size))?);
        let cluster_size_bytes = u64::from(cluster_size);
        let geometry =
            Geometry { cluster_size_bytes, table_bytes: cluster_size_bytes * u64::from(table_size), header_bytes };
        let (l1_offset, image_size_bytes) = (long(40), long(48));
        if !geometry.holds(image_size_bytes) {
            return Err(QedError::ImageSize(image_size_bytes));
        }
        if geometry.tables_for(image_size_bytes) > TABLES_MAX {
            return Err(QedError::TooManyTables);
        }
        let is_aligned = l1_offset.is_multiple_of(cluster_size_bytes) && i64::try_from(l1_offset).is_ok();
        if l1_offset < header_bytes || !is_aligned {
            return Err(QedError::L1Offset(l1_offset));
        }
        let (name_offset, name_bytes) = (field(56), field(60));
        let has_name = features & feature::BACKING_FILE != 0;
        if has_name
            && (name_bytes > BACKING_NAME_BYTES_MAX || u64::from(name_offset) + u64::from(name_bytes) > header_bytes)
        {
            return Err(QedError::BackingName);
        }
        let backing_name = has_name.then_some((name_offset.into(), name_bytes));
        Ok(Self { geometry, features, autoclear_features: long(32), l1_offset, image_size_bytes, backing_name })
    }

    /// The first bytes of the file with another backing name, or with none: the fixed part of the header, whose bytes are
    /// `fixed`, and behind it the name. Autoclear bits go, as whenever the image is written.
    ///
    /// # Errors
    /// If the name is longer than [`BACKING_NAME_BYTES_MAX`].
    pub fn with_backing(fixed: &[u8; HEADER_BYTES], name: &[u8], is_raw: bool) -> Result<Vec<u8>, QedError> {
        let length = u32::try_from(name.len()).ok().filter(|length| *length <= BACKING_NAME_BYTES_MAX);
        let length = length.ok_or(QedError::BackingName)?;
        let mut bytes = fixed.to_vec();
        let mut features =
            le_u64(fixed, FEATURES_OFFSET).unwrap_or(0) & !(feature::BACKING_FILE | feature::BACKING_IS_RAW);
        let mut place = [0; 2];
        if length != 0 {
            features |= feature::BACKING_FILE | if is_raw { feature::BACKING_IS_RAW } else { 0 };
            // At most 64.
            place = [u32::try_from(HEADER_BYTES).unwrap_or(0), length];
        }
        bytes[FEATURES_OFFSET..FEATURES_OFFSET + 8].copy_from_slice(&features.to_le_bytes());
        bytes[32..40].fill(0);
        bytes[56..60].copy_from_slice(&place[0].to_le_bytes());
        bytes[60..64].copy_from_slice(&place[1].to_le_bytes());
        bytes.extend_from_slice(name);
        Ok(bytes)
    }

    /// The backing name in the bytes that [`Header::backing_name`] points to.
    #[must_use]
    pub fn name(bytes: &[u8]) -> Vec<u8> {
        until_zero(bytes).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        for (offset, value) in [(4, 65536_u32), (8, 4), (12, 1), (56, 64), (60, 8)] {
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (offset, value) in [(16, 1_u64), (40, 65536), (48, 8 << 20)] {
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn with(offset: usize, value: &[u8]) -> Result<Header, QedError> {
        let mut bytes = header();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        Header::parse(&bytes)
    }

    #[test]
    fn read_a_header() {
        let header = Header::parse(&header()).unwrap();
        assert_eq!((header.geometry.table_bytes, header.geometry.table_entries()), (1 << 18, 1 << 15));
        assert_eq!((header.l1_offset, header.image_size_bytes, header.backing_name), (65536, 8 << 20, Some((64, 8))));
        assert_eq!(header.geometry.tables_for((2 << 30) + 512), 2);
    }

    #[test]
    fn refuse_impossible_numbers() {
        assert_eq!(with(0, b"qed"), Err(QedError::NotQed));
        assert_eq!(with(16, &[9]), Err(QedError::Features(8)));
        assert_eq!(with(4, &2048_u32.to_le_bytes()), Err(QedError::ClusterSize(2048)));
        assert_eq!(with(8, &3_u32.to_le_bytes()), Err(QedError::TableSize(3)));
        assert_eq!(with(12, &0_u32.to_le_bytes()), Err(QedError::HeaderSize(0)));
        assert_eq!(with(12, &65536_u32.to_le_bytes()), Err(QedError::HeaderSize(65536)));
        assert_eq!(with(48, &511_u64.to_le_bytes()), Err(QedError::ImageSize(511)));
        assert_eq!(with(48, &(1_u64 << 62).to_le_bytes()), Err(QedError::ImageSize(1 << 62)));
        assert_eq!(with(40, &0_u64.to_le_bytes()), Err(QedError::L1Offset(0)));
        assert_eq!(with(40, &65537_u64.to_le_bytes()), Err(QedError::L1Offset(65537)));
        assert_eq!(with(60, &1024_u32.to_le_bytes()), Err(QedError::BackingName));
        assert_eq!(with(56, &65535_u32.to_le_bytes()), Err(QedError::BackingName));
    }

    #[test]
    fn attach_and_detach() {
        let fixed = header().try_into().unwrap();
        let attached = Header::with_backing(&fixed, b"new.raw", true).unwrap();
        let parsed = Header::parse(&attached).unwrap();
        assert_eq!(parsed.features, feature::BACKING_FILE | feature::BACKING_IS_RAW);
        assert_eq!((parsed.backing_name, &attached[64..]), (Some((64, 7)), &b"new.raw"[..]));
        let fixed = attached[..HEADER_BYTES].try_into().unwrap();
        let detached = Header::with_backing(&fixed, b"", false).unwrap();
        let parsed = Header::parse(&detached).unwrap();
        assert_eq!((parsed.features, parsed.backing_name, detached.len()), (0, None, HEADER_BYTES));
        assert_eq!(detached[56..64], [0; 8]);
        assert_eq!(Header::with_backing(&fixed, &[b'n'; 1024], false), Err(QedError::BackingName));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), 60), at in 4usize..56, value: u64) {
            let mut bytes = header();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let _ = Header::parse(&bytes);
            bytes[4..].copy_from_slice(&tail);
            let _ = Header::parse(&bytes);
        }
    }
}
