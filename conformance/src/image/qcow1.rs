//! qcow version 1 without encryption: two-level tables of big-endian offsets; bit 63 marks compressed clusters (not read).

use super::bytes::{be32, be64};
use super::{Backing, Extent, ImageError, Kind, Layer, Source, bad};

/// A qcow version 1 image.
#[derive(Debug)]
pub(crate) struct Qcow1 {
    source: Source,
    cluster: u64,
    l2_entries: u64,
    l1_offset: u64,
    size: u64,
    backing: Option<Backing>,
}

impl Qcow1 {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let header = source.bytes(0, 48)?;
        let (cluster_bits, l2_bits) = (header[32], header[33]);
        if &header[..4] != b"QFI\xfb" || be32(&header, 4) != 1 {
            return bad("not a qcow image");
        }
        if !(9..=16).contains(&cluster_bits) || !(6..=13).contains(&l2_bits) || be32(&header, 36) != 0 {
            return bad("qcow geometry or encryption");
        }
        let (name_offset, name_length) = (be64(&header, 8), u64::from(be32(&header, 16)));
        let backing = if name_offset != 0 {
            let name = String::from_utf8_lossy(&source.bytes(name_offset, name_length)?).into_owned();
            Some(Backing { name, format: None })
        } else {
            None
        };
        Ok(Self {
            cluster: 1 << cluster_bits,
            l2_entries: 1 << l2_bits,
            l1_offset: be64(&header, 40),
            size: be64(&header, 24),
            backing,
            source,
        })
    }

    fn entry(&self, offset: u64) -> Result<u64, ImageError> {
        let index = offset / self.cluster;
        let l2 = be64(&self.source.bytes(self.l1_offset.saturating_add(index / self.l2_entries * 8), 8)?, 0);
        if l2 == 0 {
            return Ok(0);
        }
        let entry = be64(&self.source.bytes(l2.saturating_add(index % self.l2_entries * 8), 8)?, 0);
        if entry >> 63 != 0 { bad("compressed qcow cluster") } else { Ok(entry) }
    }
}

impl Layer for Qcow1 {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.cluster - offset % self.cluster).min(self.size - offset);
        let kind = if self.entry(offset)? == 0 { Kind::Absent } else { Kind::Data };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.source.read(self.entry(offset)?.saturating_add(offset % self.cluster), buf)
    }

    fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }
}
