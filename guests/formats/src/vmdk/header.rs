//! The header of a hosted sparse extent ("KDMV").
//!
//! Source: Virtual Disk Format 5.0, "Hosted Sparse Extent Header" and "Stream-Optimized Compressed Sparse Extents".

use super::{Geometry, SECTOR_BYTES, VmdkError};
use crate::bytes::{array, le_u32, le_u64};

/// How many bytes [`SparseHeader::parse`] needs.
pub const HEADER_BYTES: usize = 512;
/// What a sparse extent begins with.
pub const MAGIC: &[u8] = b"KDMV";
/// Where the grain directory "lies" if the true header stands at the end of the file.
const AT_END: u64 = u64::MAX;
/// How far before the end of the file that header stands: behind it there is one more marker.
pub const FOOTER_BACK_BYTES: u64 = 2 * SECTOR_BYTES;
/// The most grain tables, a limit of instar: each takes some bytes of memory. Reaches 32 TiB with grains of 64 KiB.
pub const GRAIN_TABLES_MAX: u64 = 1 << 20;
/// The most sectors in a grain, a limit of qemu-img.
const GRAIN_SECTORS_MAX: u64 = 0x20_0000;
/// The most entries in a grain table, a limit of qemu-img; the format says exactly 512.
const TABLE_ENTRIES_MAX: u32 = 512;
const VERSION_MAX: u32 = 3;

const FLAG_REDUNDANT_TABLES: u32 = 1 << 1;
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const FLAG_MARKERS: u32 = 1 << 17;
const COMPRESSION_DEFLATE: u16 = 1;

/// How the grains are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Whether a marker stands before each grain.
    pub has_markers: bool,
}

/// Length of the marker before a compressed grain: where the grain belongs (8 bytes) and how long it is packed (4 bytes).
pub const GRAIN_MARKER_BYTES: u64 = 12;

/// A header whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseHeader {
    /// 0 to 3.
    pub version: u32,
    /// Sizes.
    pub geometry: Geometry,
    /// Where the embedded descriptor lies; `None` where there is none.
    pub descriptor: Option<(u64, u64)>,
    /// Byte offset of the grain directory.
    pub directory_offset: u64,
    /// Byte offset of the second grain directory, where the header says that there is one.
    pub redundant_offset: Option<u64>,
    /// First byte behind what the header calls its overhead; the file must be that long.
    pub metadata_end_bytes: u64,
    /// How the grains are packed; `None` for plain ones.
    pub compression: Option<Compression>,
    /// Whether this header stands at the end of the file, so that nothing may be appended.
    pub is_footer: bool,
}

impl SparseHeader {
    /// Whether the bytes at the start of the file say that the header at its end counts, [`FOOTER_BACK_BYTES`] before it.
    #[must_use]
    pub fn points_to_footer(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC) && le_u64(bytes, 56) == Some(AT_END)
    }

    /// Reads a header. `is_footer` says that it was found at the end of the file.
    ///
    /// # Errors
    /// In qemu-img's words. A capacity of zero is not an error here.
    pub fn parse(bytes: &[u8], file_length_bytes: u64, is_footer: bool) -> Result<Self, VmdkError> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(if is_footer { VmdkError::Footer } else { VmdkError::NotVmdk });
        }
        let field = |offset| le_u32(bytes, offset).unwrap_or(0);
        let long = |offset| le_u64(bytes, offset).unwrap_or(0);
        let (version, flags) = (field(4), field(8));
        let (capacity_sectors, grain_sectors, table_entries) = (long(12), long(20), field(44));
        if version > VERSION_MAX {
            return Err(VmdkError::Version(version));
        }
        if table_entries > TABLE_ENTRIES_MAX {
            return Err(VmdkError::TableTooBig);
        }
        let entry_sectors = u64::from(table_entries).checked_mul(grain_sectors).ok_or(VmdkError::EntrySize)?;
        if entry_sectors == 0 {
            return Err(VmdkError::EntrySize);
        }
        if grain_sectors > GRAIN_SECTORS_MAX {
            return Err(VmdkError::Granularity);
        }
        let needed_bytes = long(64).saturating_mul(SECTOR_BYTES);
        if needed_bytes > file_length_bytes {
            return Err(VmdkError::Truncated { needed_bytes });
        }
        let capacity_bytes = to_bytes(capacity_sectors)?;
        let geometry = Geometry {
            grain_size_bytes: grain_sectors * SECTOR_BYTES,
            table_entries: table_entries.into(),
            capacity_bytes,
            has_zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
        };
        if geometry.directory_entries() > GRAIN_TABLES_MAX {
            return Err(VmdkError::DirectoryTooLarge);
        }
        let descriptor_length = long(36).saturating_mul(SECTOR_BYTES);
        let descriptor = (long(28) != 0).then_some((to_bytes(long(28))?, descriptor_length));
        // The flag for compression says nothing without an algorithm, as qemu-img has it.
        let compressed = array(bytes, 77).map(u16::from_le_bytes) == Some(COMPRESSION_DEFLATE);
        Ok(Self {
            version,
            geometry,
            descriptor,
            directory_offset: to_bytes(long(56))?,
            redundant_offset: (flags & FLAG_REDUNDANT_TABLES != 0).then(|| to_bytes(long(48))).transpose()?,
            metadata_end_bytes: needed_bytes,
            compression: compressed.then_some(Compression { has_markers: flags & FLAG_MARKERS != 0 }),
            is_footer,
        })
    }
}

/// Bytes in a number of sectors, if a file can be as long.
fn to_bytes(sectors: u64) -> Result<u64, VmdkError> {
    sectors.checked_mul(SECTOR_BYTES).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or(VmdkError::SizeTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const FILE_BYTES: u64 = 1 << 20;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        put32(&mut bytes, 4, 1);
        put32(&mut bytes, 8, 3);
        put64(&mut bytes, 12, 16384);
        put64(&mut bytes, 20, 128);
        put64(&mut bytes, 28, 1);
        put64(&mut bytes, 36, 20);
        put32(&mut bytes, 44, 512);
        put64(&mut bytes, 48, 21);
        put64(&mut bytes, 56, 26);
        put64(&mut bytes, 64, 128);
        bytes
    }

    fn put32(bytes: &mut [u8], offset: usize, value: u32) {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put64(bytes: &mut [u8], offset: usize, value: u64) {
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn read_a_header() {
        let header = SparseHeader::parse(&header(), FILE_BYTES, false).unwrap();
        assert_eq!(header.geometry.grain_size_bytes, 65536);
        assert_eq!(header.geometry.capacity_bytes, 8 << 20);
        assert_eq!(header.geometry.directory_entries(), 1);
        assert_eq!(header.descriptor, Some((512, 10240)));
        assert_eq!((header.directory_offset, header.redundant_offset), (26 * 512, Some(21 * 512)));
        assert_eq!((header.compression, header.geometry.has_zeroed_grains), (None, false));
    }

    #[test]
    fn refuse_impossible_numbers() {
        let with = |offset, value: u64, wide| {
            let mut bytes = header();
            if wide {
                put64(&mut bytes, offset, value)
            } else {
                put32(&mut bytes, offset, u32::try_from(value).unwrap())
            }
            SparseHeader::parse(&bytes, FILE_BYTES, false).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, 7, false), VmdkError::NotVmdk);
        assert_eq!(with(4, 4, false), VmdkError::Version(4));
        assert_eq!(with(44, 0, false), VmdkError::EntrySize);
        assert_eq!(with(44, 513, false), VmdkError::TableTooBig);
        assert_eq!(with(20, 0, true), VmdkError::EntrySize);
        assert_eq!(with(20, 0x20_0001, true), VmdkError::Granularity);
        assert_eq!(with(20, u64::MAX, true), VmdkError::EntrySize);
        assert_eq!(with(12, u64::MAX, true), VmdkError::SizeTooLarge);
        assert_eq!(with(12, 1 << 50, true), VmdkError::DirectoryTooLarge);
        assert_eq!(with(64, 4096, true), VmdkError::Truncated { needed_bytes: 4096 * 512 });
        assert_eq!(with(56, u64::MAX, true), VmdkError::SizeTooLarge);
    }

    #[test]
    fn find_the_footer() {
        let mut bytes = header();
        assert!(!SparseHeader::points_to_footer(&bytes));
        put64(&mut bytes, 56, u64::MAX);
        assert!(SparseHeader::points_to_footer(&bytes));
        assert_eq!(SparseHeader::parse(&[0; HEADER_BYTES], FILE_BYTES, true), Err(VmdkError::Footer));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), 76), length: u64) {
            let mut bytes = header();
            bytes[4..80].copy_from_slice(&tail);
            if let Ok(header) = SparseHeader::parse(&bytes, length, false) {
                prop_assert!(header.geometry.directory_entries() <= GRAIN_TABLES_MAX);
                prop_assert!(header.geometry.table_coverage_bytes() > 0);
            }
        }

        #[test]
        fn single_fields_never_panic(offset in 4usize..72, value: u64) {
            let mut bytes = header();
            put64(&mut bytes, offset, value);
            let _ = SparseHeader::parse(&bytes, FILE_BYTES, false);
        }
    }
}
