//! The metadata: sizes of the disk, its blocks and its sectors.

use super::{Guid, VhdxError};
use crate::bytes::{array, le_u32, le_u64};

/// How much of the metadata region is looked at, a limit of instar; the items that count are a few bytes each.
pub const METADATA_BYTES_MAX: u64 = 1 << 20;
const SIGNATURE: &[u8] = b"metadata";
const TABLE_BYTES: usize = 64 << 10;
const ENTRIES_OFFSET: usize = 32;
const ENTRY_BYTES: usize = 32;
const ENTRIES_MAX: usize = 2047;
const REQUIRED: u32 = 1 << 2;
const HAS_PARENT: u32 = 1 << 1;
const BLOCK_SIZES: core::ops::RangeInclusive<u32> = 1 << 20..=256 << 20;
const DISK_BYTES_MAX: u64 = 64 << 40;
/// How many sectors the bitmap blocks of the format describe each.
const SECTORS_PER_CHUNK: u64 = 1 << 23;

/// CAA16737-FA36-4D43-B3B6-33F0AA44E76B.
const FILE_PARAMETERS: Guid =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
/// 2FA54224-CD1B-4876-B211-5DBED83BF4B8.
const DISK_SIZE: Guid =
    [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
/// 8141BF1D-A96F-4709-BA47-F233A8FAAB5F.
const LOGICAL_SECTOR_SIZE: Guid =
    [0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f];
/// Items that are known and do not matter here: the disk's identifier, its physical sector size.
const IDLE: [Guid; 2] = [
    [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46],
    [0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56],
];

/// Sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Size of the disk in bytes, a multiple of the logical sector.
    pub disk_size_bytes: u64,
    /// Length of a block in bytes: a power of two from 1 MiB to 256 MiB.
    pub block_size_bytes: u64,
    /// 512 or 4096.
    pub sector_size_bytes: u64,
}

impl Metadata {
    /// Reads the start of the metadata region.
    ///
    /// # Errors
    /// If an item is missing or impossible; if the image is a differencing one.
    pub fn parse(region: &[u8]) -> Result<Self, VhdxError> {
        if region.len() < TABLE_BYTES || !region.starts_with(SIGNATURE) {
            return Err(VhdxError::NoMetadata);
        }
        let count = usize::from(array(region, 10).map_or(0, u16::from_le_bytes));
        if count > ENTRIES_MAX {
            return Err(VhdxError::NoMetadata);
        }
        let (mut parameters, mut disk_size, mut sector_size) = (None, None, None);
        let mut flags = 0;
        for entry in region[ENTRIES_OFFSET..TABLE_BYTES].chunks_exact(ENTRY_BYTES).take(count) {
            let guid: Guid = array(entry, 0).unwrap_or_default();
            let offset = usize::try_from(le_u32(entry, 16).unwrap_or(0)).unwrap_or(usize::MAX);
            let inside = Some(offset).filter(|offset| *offset >= TABLE_BYTES);
            let field = |skip: usize| inside.and_then(|offset| le_u32(region, offset.checked_add(skip)?));
            match guid {
                FILE_PARAMETERS => {
                    let value = field(0).filter(|size| size.is_power_of_two() && BLOCK_SIZES.contains(size));
                    flags = field(4).unwrap_or(0);
                    set(&mut parameters, value.map(u64::from), "file parameters")?;
                }
                DISK_SIZE => {
                    let value = inside.and_then(|offset| le_u64(region, offset));
                    set(&mut disk_size, value.filter(|size| *size <= DISK_BYTES_MAX), "virtual disk size")?;
                }
                LOGICAL_SECTOR_SIZE => {
                    let value = field(0).filter(|size| matches!(size, 512 | 4096));
                    set(&mut sector_size, value.map(u64::from), "logical sector size")?;
                }
                _ if IDLE.contains(&guid) || le_u32(entry, 24).unwrap_or(0) & REQUIRED == 0 => {}
                _ if flags & HAS_PARENT != 0 => return Err(VhdxError::Differencing),
                _ => return Err(VhdxError::UnknownItem),
            }
        }
        if flags & HAS_PARENT != 0 {
            return Err(VhdxError::Differencing);
        }
        let block_size_bytes = parameters.ok_or(VhdxError::Item("file parameters"))?;
        let sector_size_bytes: u64 = sector_size.ok_or(VhdxError::Item("logical sector size"))?;
        let disk_size_bytes: u64 = disk_size.ok_or(VhdxError::Item("virtual disk size"))?;
        if !disk_size_bytes.is_multiple_of(sector_size_bytes) {
            return Err(VhdxError::Item("virtual disk size"));
        }
        Ok(Self { disk_size_bytes, block_size_bytes, sector_size_bytes })
    }

    /// How many blocks the block table describes between two entries for bitmaps.
    #[must_use]
    pub const fn blocks_per_chunk(&self) -> u64 {
        SECTORS_PER_CHUNK * self.sector_size_bytes / self.block_size_bytes
    }

    /// Number of blocks of the disk.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.disk_size_bytes.div_ceil(self.block_size_bytes)
    }

    /// Number of entries that the block table needs.
    #[must_use]
    pub const fn table_entries(&self) -> u64 {
        self.blocks() + self.blocks().saturating_sub(1) / self.blocks_per_chunk()
    }
}

fn set(slot: &mut Option<u64>, value: Option<u64>, name: &'static str) -> Result<(), VhdxError> {
    match (slot.is_some(), value) {
        (false, Some(_)) => {
            *slot = value;
            Ok(())
        }
        _ => Err(VhdxError::Item(name)),
    }
}
