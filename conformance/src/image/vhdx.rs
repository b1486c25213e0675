//! vhdx without parent and with an empty log: region table, metadata (block size, sector size, virtual size), block table.

use super::bytes::{le32, le64};
use super::{Extent, ImageError, Kind, Layer, Source, bad};

const REGION_TABLE: u64 = 192 << 10;
const BAT_GUID: u64 = 0x4200_f623_2dc2_7766;
const METADATA_GUID: u64 = 0x4b9a_4790_8b7c_a206;
const FILE_PARAMETERS: u64 = 0x4d43_fa36_caa1_6737;
const VIRTUAL_DISK_SIZE: u64 = 0x4876_cd1b_2fa5_4224;
const LOGICAL_SECTOR_SIZE: u64 = 0x4709_a96f_8141_bf1d;

/// A vhdx image.
#[derive(Debug)]
pub(crate) struct Vhdx {
    source: Source,
    block: u64,
    chunk_ratio: u64,
    bat_offset: u64,
    size: u64,
}

/// Looks up a GUID by its first eight bytes in a table of 32-byte entries; returns the entry.
fn find(table: &[u8], first: usize, count: u32, guid: u64) -> Option<&[u8]> {
    (0..count as usize)
        .filter_map(|i| table.get(first + i * 32..first + i * 32 + 32))
        .find(|entry| le64(entry, 0) == guid)
}

impl Vhdx {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        if source.bytes(0, 8)? != b"vhdxfile" {
            return bad("not a vhdx image");
        }
        let regions = source.bytes(REGION_TABLE, 64 << 10)?;
        let count = le32(&regions, 8).min(2047);
        let region = |guid: u64| {
            find(&regions, 16, count, guid).map(|e| le64(e, 16)).ok_or_else(|| ImageError("vhdx region".into()))
        };
        let (bat_offset, metadata_offset) = (region(BAT_GUID)?, region(METADATA_GUID)?);
        let metadata = source.bytes(metadata_offset, 1 << 20)?;
        let count = u32::from(u16::from_le_bytes([metadata[10], metadata[11]])).min(2047);
        let item = |guid: u64| {
            let entry = find(&metadata, 32, count, guid).ok_or_else(|| ImageError("vhdx metadata".into()))?;
            Ok::<usize, ImageError>(le32(entry, 16) as usize)
        };
        let block = u64::from(le32(&metadata, item(FILE_PARAMETERS)?));
        let sector = u64::from(le32(&metadata, item(LOGICAL_SECTOR_SIZE)?));
        if block == 0 || sector == 0 {
            return bad("vhdx geometry");
        }
        let size = le64(&metadata, item(VIRTUAL_DISK_SIZE)?);
        Ok(Self { block, chunk_ratio: (sector << 23) / block, bat_offset, size, source })
    }

    fn entry(&self, offset: u64) -> Result<u64, ImageError> {
        let index = offset / self.block;
        let index = index + index / self.chunk_ratio.max(1);
        Ok(le64(&self.source.bytes(self.bat_offset.saturating_add(index * 8), 8)?, 0))
    }
}

impl Layer for Vhdx {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.block - offset % self.block).min(self.size - offset);
        // State 6 is a block that is fully present; the others read as zero without a parent.
        let kind = if self.entry(offset)? & 7 == 6 { Kind::Data } else { Kind::Absent };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let entry = self.entry(offset)?;
        self.source.read((entry >> 20 << 20) + offset % self.block, buf)
    }
}
