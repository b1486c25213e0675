//! vmdk, one sparse file ("KDMV"): grain directory, grain tables, embedded descriptor with the parent's name and CID.
//! A stored grain number 1 means zero where the header's flag says so. Stream-optimised files are not read.

use super::bytes::{le32, le64};
use super::{Backing, Extent, ImageError, Kind, Layer, Source, bad};

const FLAG_ZEROED_GRAIN: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;

/// A sparse vmdk file.
#[derive(Debug)]
pub(crate) struct Vmdk {
    source: Source,
    grain: u64,
    table_entries: u64,
    directory: Vec<u8>,
    zeroed_grain: bool,
    size: u64,
    backing: Option<Backing>,
    cid: String,
    parent_cid: String,
}

impl Vmdk {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let header = source.bytes(0, 512)?;
        if &header[..4] != b"KDMV" {
            return bad("not a sparse vmdk file");
        }
        let flags = le32(&header, 8);
        let (capacity, grain_sectors) = (le64(&header, 12), le64(&header, 20));
        let table_entries = u64::from(le32(&header, 44));
        if flags & FLAG_COMPRESSED != 0
            || grain_sectors == 0
            || table_entries == 0
            || capacity > 1 << 40
            || grain_sectors > 1 << 30
        {
            return bad("vmdk form that this reader does not know");
        }
        let descriptor = source.bytes(le64(&header, 28).saturating_mul(512), le64(&header, 36).saturating_mul(512))?;
        let descriptor = String::from_utf8_lossy(&descriptor).into_owned();
        let tables = capacity.div_ceil(grain_sectors).div_ceil(table_entries);
        let directory = source.bytes(le64(&header, 56).saturating_mul(512), tables * 4)?;
        let backing = field(&descriptor, "parentFileNameHint")
            .map(|name| Backing { name: name.trim_matches('"').to_owned(), format: Some("vmdk".to_owned()) });
        Ok(Self {
            grain: grain_sectors * 512,
            table_entries,
            directory,
            zeroed_grain: flags & FLAG_ZEROED_GRAIN != 0,
            size: capacity * 512,
            backing,
            cid: field(&descriptor, "CID").unwrap_or_default().to_lowercase(),
            parent_cid: field(&descriptor, "parentCID").unwrap_or_default().to_lowercase(),
            source,
        })
    }

    /// The content identifier, and the one that the parent must have.
    pub(crate) fn identifiers(&self) -> (&str, &str) {
        (&self.cid, &self.parent_cid)
    }

    fn entry(&self, offset: u64) -> Result<u32, ImageError> {
        let index = offset / self.grain;
        let at = usize::try_from(index / self.table_entries * 4).map_err(|_| ImageError("vmdk index".into()))?;
        let table = u64::from(le32(&self.directory, at));
        if table == 0 {
            return Ok(0);
        }
        Ok(le32(&self.source.bytes(table * 512 + index % self.table_entries * 4, 4)?, 0))
    }
}

fn field(descriptor: &str, name: &str) -> Option<String> {
    descriptor.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(|v| v.trim().to_owned()))
}

impl Layer for Vmdk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = (self.grain - offset % self.grain).min(self.size - offset);
        let kind = match self.entry(offset)? {
            0 => Kind::Absent,
            1 if self.zeroed_grain => Kind::Zero,
            _ => Kind::Data,
        };
        Ok(Extent { length, kind })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.source.read(u64::from(self.entry(offset)?) * 512 + offset % self.grain, buf)
    }

    fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    fn parent_link(&self) -> Option<(&str, &str)> {
        Some(self.identifiers())
    }
}
