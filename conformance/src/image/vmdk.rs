//! vmdk, one sparse file ("KDMV"): grain directory, grain tables, embedded descriptor with the parent's name and CID.
//! A stored grain number 1 means zero where the header's flag says so. In stream-optimised files every grain is compressed (RFC 1950) behind
//! a marker of 12 bytes, and the header that counts may stand at the end of the file.

use super::bytes::{le32, le64};
use super::{Backing, Extent, ImageError, Kind, Layer, Source, bad};
use std::cell::RefCell;

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
    compressed: bool,
    /// The grain that was unpacked last, by its sector.
    inflated: RefCell<Option<(u64, Vec<u8>)>>,
    size: u64,
    backing: Option<Backing>,
    cid: String,
    parent_cid: String,
}

impl Vmdk {
    pub(crate) fn open(source: Source) -> Result<Self, ImageError> {
        let mut header = source.bytes(0, 512)?;
        let descriptor_place = (le64(&header, 28), le64(&header, 36));
        if le64(&header, 56) == u64::MAX && source.length() > 1024 {
            header = source.bytes(source.length() - 1024, 512)?;
        }
        if &header[..4] != b"KDMV" {
            return bad("not a sparse vmdk file");
        }
        let flags = le32(&header, 8);
        let (capacity, grain_sectors) = (le64(&header, 12), le64(&header, 20));
        let table_entries = u64::from(le32(&header, 44));
        if grain_sectors == 0 || table_entries == 0 || capacity > 1 << 40 || grain_sectors > 1 << 30 {
            return bad("vmdk form that this reader does not know");
        }
        let descriptor =
            source.bytes(descriptor_place.0.saturating_mul(512), descriptor_place.1.saturating_mul(512))?;
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
            compressed: flags & FLAG_COMPRESSED != 0,
            inflated: RefCell::default(),
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

impl Vmdk {
    /// Reads from the compressed grain whose marker lies at `sector`.
    fn read_packed(&self, sector: u64, inside: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut inflated = self.inflated.borrow_mut();
        if inflated.as_ref().is_none_or(|(key, _)| *key != sector) {
            let marker = self.source.bytes(sector * 512, 12)?;
            let packed = self.source.bytes(sector * 512 + 12, u64::from(le32(&marker, 8)))?;
            let plain = miniz_oxide::inflate::decompress_to_vec_zlib(&packed)
                .map_err(|error| ImageError(format!("grain at sector {sector}: {error}")))?;
            *inflated = Some((sector, plain));
        }
        let plain = &inflated.as_ref().expect("just filled").1;
        // What a grain unpacks to may be shorter than the grain; the rest is zero.
        buf.fill(0);
        let from = usize::try_from(inside).unwrap_or(usize::MAX).min(plain.len());
        let count = buf.len().min(plain.len() - from);
        buf[..count].copy_from_slice(&plain[from..from + count]);
        Ok(())
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
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = at % self.grain;
            let count = usize::try_from(self.grain - inside).unwrap_or(usize::MAX).min(buf.len() - done);
            let sector = u64::from(self.entry(at)?);
            let part = &mut buf[done..done + count];
            if self.compressed {
                self.read_packed(sector, inside, part)?;
            } else {
                self.source.read(sector * 512 + inside, part)?;
            }
            done += count;
        }
        Ok(())
    }

    fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    fn parent_link(&self) -> Option<(&str, &str)> {
        Some(self.identifiers())
    }
}
