//! vpc without parent: a footer, and for growing disks a header, a table of 32-bit sector numbers, and blocks with a bitmap before them.
//!
//! The bitmaps are not looked at: qemu-img shows a block that is there as it is.

use super::bytes::{be32, be64};
use super::{Extent, ImageError, Kind, Layer, Source, bad};

const SECTOR: u64 = 512;
/// Programs whose recorded size counts instead of cylinders, heads and sectors.
const EXACT: [&[u8]; 6] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"];
const UNALLOCATED: u32 = u32::MAX;

/// A vpc image.
#[derive(Debug)]
pub(crate) struct Vpc {
    source: Source,
    size: u64,
    /// Of a growing disk.
    blocks: Option<Blocks>,
}

#[derive(Debug)]
struct Blocks {
    block: u64,
    bitmap: u64,
    table: Vec<u8>,
}

impl Vpc {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let mut footer = source.bytes(0, 512)?;
        let is_growing = footer.starts_with(b"conectix");
        if !is_growing {
            let at = source.length().checked_sub(512).ok_or(ImageError("not a vpc image".into()))?;
            footer = source.bytes(at, 512)?;
        }
        if !footer.starts_with(b"conectix") {
            return bad("not a vpc image");
        }
        let geometry = (u64::from(be32(&footer, 56) >> 16), u64::from(footer[58]), u64::from(footer[59]));
        let is_exact = EXACT.contains(&&footer[28..32]) || geometry == (65535, 16, 255);
        let size =
            if is_exact { be64(&footer, 48) / SECTOR * SECTOR } else { geometry.0 * geometry.1 * geometry.2 * SECTOR };
        let blocks = match be32(&footer, 60) {
            2 => None,
            3 => Some(Blocks::open(&source, be64(&footer, 16))?),
            other => return bad(format!("vpc of kind {other}")),
        };
        Ok(Self { source, size, blocks })
    }
}

impl Blocks {
    fn open(source: &Source, header_offset: u64) -> Result<Self, ImageError> {
        let header = source.bytes(header_offset, 1024)?;
        let block = u64::from(be32(&header, 32));
        if !header.starts_with(b"cxsparse") || block < SECTOR {
            return bad("vpc header");
        }
        let table = source.bytes(be64(&header, 16), u64::from(be32(&header, 28)) * 4)?;
        Ok(Self { block, bitmap: (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR), table })
    }

    /// Where the block with the disk's byte `offset` begins, its bitmap left out.
    fn place(&self, offset: u64) -> Option<u64> {
        let at = usize::try_from(offset / self.block * 4).ok()?;
        let sector = self.table.get(at..at + 4).map(|entry| be32(entry, 0)).filter(|sector| *sector != UNALLOCATED)?;
        Some(u64::from(sector) * SECTOR + self.bitmap)
    }
}

impl Layer for Vpc {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let Some(blocks) = &self.blocks else { return Ok(Extent { length: self.size - offset, kind: Kind::Data }) };
        let length = (blocks.block - offset % blocks.block).min(self.size - offset);
        // The format is read without backing files: what is not stored reads as zero by its word.
        let kind = if blocks.place(offset).is_some() { Kind::Data } else { Kind::Zero };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let at = match &self.blocks {
            None => offset,
            Some(blocks) => match blocks.place(offset) {
                Some(place) => place + offset % blocks.block,
                None => return bad("no such block"),
            },
        };
        self.source.read(at, buf)
    }
}
