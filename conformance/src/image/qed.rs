//! qed: header (magic "QED\0", little-endian), one L1 table, L2 tables of the same size, clusters; offset 1 means zero.

use super::bytes::{le32, le64};
use super::{Backing, Extent, ImageError, Kind, Layer, Source, bad};

/// A qed image.
#[derive(Debug)]
pub(crate) struct Qed {
    source: Source,
    cluster: u64,
    entries: u64,
    l1: Vec<u8>,
    size: u64,
    backing: Option<Backing>,
}

impl Qed {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let header = source.bytes(0, 64)?;
        if &header[..4] != b"QED\0" {
            return bad("not a qed image");
        }
        let cluster = u64::from(le32(&header, 4));
        let table = u64::from(le32(&header, 8)) * cluster;
        if cluster == 0 || !(8..=64 << 20).contains(&table) {
            return bad("qed geometry");
        }
        let features = le64(&header, 16);
        let (name_offset, name_length) = (u64::from(le32(&header, 56)), u64::from(le32(&header, 60)));
        let backing = if features & 1 != 0 {
            let name = String::from_utf8_lossy(&source.bytes(name_offset, name_length)?).into_owned();
            let format = (features & 4 != 0).then(|| "raw".to_owned());
            Some(Backing { name, format })
        } else {
            None
        };
        let l1 = source.bytes(le64(&header, 40), table)?;
        Ok(Self { cluster, entries: table / 8, l1, size: le64(&header, 48), backing, source })
    }

    fn entry(&self, offset: u64) -> Result<u64, ImageError> {
        let index = offset / self.cluster;
        let at = usize::try_from(index / self.entries * 8).map_err(|_| ImageError("qed index".into()))?;
        let l2 = le64(&self.l1, at);
        if l2 == 0 {
            return Ok(0);
        }
        Ok(le64(&self.source.bytes(l2.saturating_add(index % self.entries * 8), 8)?, 0))
    }
}

impl Layer for Qed {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.cluster - offset % self.cluster).min(self.size - offset);
        let kind = match self.entry(offset)? {
            0 => Kind::Absent,
            1 => Kind::Zero,
            _ => Kind::Data,
        };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.source.read(self.entry(offset)?.saturating_add(offset % self.cluster), buf)
    }

    fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }
}
