//! parallels: a table of 32-bit cluster positions behind a 64-byte header; 0 is unallocated.

use super::bytes::{le32, le64};
use super::{Extent, ImageError, Kind, Layer, Source, bad};

/// A parallels image.
#[derive(Debug)]
pub(crate) struct Parallels {
    source: Source,
    cluster: u64,
    unit: u64,
    table: Vec<u8>,
    size: u64,
}

impl Parallels {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let header = source.bytes(0, 64)?;
        let cluster = u64::from(le32(&header, 28)) * 512;
        if cluster == 0 {
            return bad("parallels geometry");
        }
        // The older magic counts positions in sectors, the extended one in clusters.
        let unit = match &header[..16] {
            b"WithoutFreeSpace" => 512,
            b"WithouFreSpacExt" => cluster,
            _ => return bad("not a parallels image"),
        };
        let table = source.bytes(64, u64::from(le32(&header, 32)) * 4)?;
        Ok(Self { cluster, unit, table, size: le64(&header, 36).saturating_mul(512), source })
    }

    fn entry(&self, offset: u64) -> u64 {
        let at = usize::try_from(offset / self.cluster * 4).unwrap_or(usize::MAX - 8);
        if at + 4 > self.table.len() { 0 } else { u64::from(le32(&self.table, at)) }
    }
}

impl Layer for Parallels {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.cluster - offset % self.cluster).min(self.size - offset);
        let kind = if self.entry(offset) == 0 { Kind::Absent } else { Kind::Data };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.source.read(self.entry(offset) * self.unit + offset % self.cluster, buf)
    }
}
