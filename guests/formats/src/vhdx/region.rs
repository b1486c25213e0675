//! The region table, which says where the block table and the metadata lie.

use super::checksum::of_structure;
use super::{ALIGNMENT_BYTES, Guid, Head, VhdxError};
use crate::bytes::{array, le_u32, le_u64};

/// Length of a region table in bytes.
pub const REGION_TABLE_BYTES: usize = 64 << 10;
/// Where the region tables lie.
pub const REGION_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
const SIGNATURE: &[u8] = b"regi";
const CHECKSUM_OFFSET: usize = 4;
const ENTRIES_OFFSET: usize = 16;
const ENTRY_BYTES: usize = 32;
const ENTRIES_MAX: u32 = 2047;
const REQUIRED: u32 = 1;
/// 2DC27766-F623-4200-9D64-115E9BFD4A08.
const BLOCK_TABLE: Guid =
    [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08];
/// 8B7CA206-4790-4B9A-B8FE-575F050F886E.
const METADATA: Guid = [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte, a multiple of 1 MiB and at least that.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
}

impl Region {
    fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.length_bytes && other.offset < self.offset + self.length_bytes
    }
}

/// Where things lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regions {
    /// The block table.
    pub block_table: Region,
    /// The metadata table and its items.
    pub metadata: Region,
}

impl Regions {
    /// Reads [`REGION_TABLE_BYTES`]; no region may overlap the log of `head`. `None` if they are no valid table.
    ///
    /// # Errors
    /// If the table is valid and what it says cannot be.
    pub fn parse(bytes: &[u8], head: &Head) -> Option<Result<Self, VhdxError>> {
        let bytes = bytes.get(..REGION_TABLE_BYTES)?;
        let is_valid =
            bytes.starts_with(SIGNATURE) && le_u32(bytes, CHECKSUM_OFFSET)? == of_structure(bytes, CHECKSUM_OFFSET);
        let count = le_u32(bytes, 8)?;
        (is_valid && count <= ENTRIES_MAX).then(|| Self::from_entries(bytes, count, head))
    }

    fn from_entries(bytes: &[u8], count: u32, head: &Head) -> Result<Self, VhdxError> {
        let (mut block_table, mut metadata) = (None, None);
        let count = usize::try_from(count).unwrap_or(0);
        for entry in bytes[ENTRIES_OFFSET..].chunks_exact(ENTRY_BYTES).take(count) {
            let guid: Guid = array(entry, 0).unwrap_or_default();
            let region =
                Region { offset: le_u64(entry, 16).unwrap_or(0), length_bytes: le_u32(entry, 24).unwrap_or(0).into() };
            let (slot, name) = match guid {
                BLOCK_TABLE => (&mut block_table, "block table"),
                METADATA => (&mut metadata, "metadata"),
                _ if le_u32(entry, 28).unwrap_or(0) & REQUIRED != 0 => return Err(VhdxError::UnknownRegion),
                _ => continue,
            };
            let is_placed = region.offset >= ALIGNMENT_BYTES
                && region.offset.is_multiple_of(ALIGNMENT_BYTES)
                && region.length_bytes.is_multiple_of(ALIGNMENT_BYTES)
                && region.length_bytes != 0
                && i64::try_from(region.offset).is_ok();
            if !is_placed || slot.replace(region).is_some() {
                return Err(VhdxError::Region(name));
            }
        }
        let block_table = block_table.ok_or(VhdxError::Region("block table"))?;
        let metadata = metadata.ok_or(VhdxError::Region("metadata"))?;
        let log = Region { offset: head.log_offset, length_bytes: head.log_bytes.into() };
        if metadata.overlaps(&block_table) || metadata.overlaps(&log) {
            return Err(VhdxError::Region("metadata"));
        }
        if block_table.overlaps(&log) {
            return Err(VhdxError::Region("block table"));
        }
        Ok(Self { block_table, metadata })
    }
}
