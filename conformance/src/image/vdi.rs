//! vdi version 1.1: one map of 32-bit block numbers; 0xffffffff is unallocated, 0xfffffffe is zero.

use super::bytes::{le32, le64};
use super::{Extent, ImageError, Kind, Layer, Source, bad};

/// A vdi image.
#[derive(Debug)]
pub(crate) struct Vdi {
    source: Source,
    block: u64,
    map: Vec<u8>,
    data_offset: u64,
    size: u64,
}

impl Vdi {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let header = source.bytes(0, 512)?;
        if le32(&header, 0x40) != 0xbeda_107f {
            return bad("not a vdi image");
        }
        let block = u64::from(le32(&header, 0x178));
        if block == 0 {
            return bad("vdi geometry");
        }
        let map = source.bytes(u64::from(le32(&header, 0x154)), u64::from(le32(&header, 0x180)) * 4)?;
        Ok(Self { block, map, data_offset: u64::from(le32(&header, 0x158)), size: le64(&header, 0x170), source })
    }

    fn entry(&self, offset: u64) -> u32 {
        let at = usize::try_from(offset / self.block * 4).unwrap_or(usize::MAX - 8);
        if at + 4 > self.map.len() { u32::MAX } else { le32(&self.map, at) }
    }
}

impl Layer for Vdi {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.block - offset % self.block).min(self.size - offset);
        // The format has no backing files: what is not stored reads as zero by its word.
        let kind = if self.entry(offset) >= 0xffff_fffe { Kind::Zero } else { Kind::Data };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.source.read(self.data_offset + u64::from(self.entry(offset)) * self.block + offset % self.block, buf)
    }
}
