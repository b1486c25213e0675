//! Persistent bitmaps: the directory, and which granules are set.
//!
//! What it cannot see: whether what a set bit stands for was really written; that is the oracle's question.

use super::super::bytes::{be32, be64};
use super::super::{ImageError, bad};
use super::Qcow2;
use super::entries::OFFSET_MASK;
use serde::{Deserialize, Serialize};

/// An image with more is not read.
const MAX_BITMAPS: u32 = 65535;

/// One bitmap with its contents.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Guest bytes that a bit stands for.
    pub granularity_bytes: u64,
    /// It was not stored properly; what it says counts for nothing.
    pub in_use: bool,
    /// It records writes.
    pub enabled: bool,
    /// Runs of granules that are set, in order: first and one behind the last.
    pub set: Vec<[u64; 2]>,
}

impl Bitmap {
    /// Whether every granule of `first..end` is set.
    pub fn covers(&self, first: u64, end: u64) -> bool {
        first >= end || self.set.iter().any(|run| run[0] <= first && run[1] >= end)
    }

    /// Whether the granule of a byte of the disk is set.
    pub fn names(&self, offset: u64) -> bool {
        let granule = offset / self.granularity_bytes;
        let behind = self.set.partition_point(|run| run[0] <= granule);
        behind > 0 && granule < self.set[behind - 1][1]
    }

    fn add(&mut self, first: u64, end: u64) {
        match self.set.last_mut() {
            Some(last) if last[1] == first => last[1] = end,
            _ => self.set.push([first, end]),
        }
    }
}

/// All bitmaps of the image, in the order of the directory; none where the header does not vouch for them.
pub(super) fn read(image: &Qcow2) -> Result<Vec<Bitmap>, ImageError> {
    let header = &image.header;
    let Some(extension) = header.bitmaps.filter(|_| header.autoclear & 1 != 0) else { return Ok(Vec::new()) };
    if extension.count > MAX_BITMAPS {
        return bad("too many bitmaps");
    }
    let directory = image.source.bytes(extension.directory_offset, extension.directory_size)?;
    let mut bitmaps = Vec::new();
    let mut at = 0usize;
    for _ in 0..extension.count {
        let Some(entry) = directory.get(at..at + 24) else { return bad("bitmap directory too short") };
        let name_start = at + 24 + be32(entry, 20) as usize;
        let name_end = name_start + usize::from(u16::from_be_bytes([entry[18], entry[19]]));
        let Some(name) = directory.get(name_start..name_end) else { return bad("bitmap directory too short") };
        if !(9..=31).contains(&entry[17]) {
            return bad("bitmap granularity");
        }
        let flags = be32(entry, 12);
        let mut bitmap = Bitmap {
            name: String::from_utf8_lossy(name).into_owned(),
            granularity_bytes: 1 << entry[17],
            in_use: flags & 1 != 0,
            enabled: flags & 2 != 0,
            set: Vec::new(),
        };
        let table = image.source.bytes(be64(entry, 0), u64::from(be32(entry, 8)) * 8)?;
        read_bits(image, &table, &mut bitmap)?;
        bitmaps.push(bitmap);
        at = name_end.next_multiple_of(8);
    }
    Ok(bitmaps)
}

fn read_bits(image: &Qcow2, table: &[u8], bitmap: &mut Bitmap) -> Result<(), ImageError> {
    let cluster_size = image.header.cluster_size();
    let granules = image.header.size.div_ceil(bitmap.granularity_bytes);
    let per_cluster = cluster_size * 8;
    for (index, slot) in (0u64..).zip(table.chunks_exact(8)) {
        let (first, end) = (index * per_cluster, ((index + 1) * per_cluster).min(granules));
        let slot = be64(slot, 0);
        match (slot & OFFSET_MASK, slot & 1) {
            (0, 0) => {}
            (0, _) => bitmap.add(first, end),
            (offset, _) => {
                let bytes = image.source.bytes(offset, cluster_size)?;
                for granule in first..end {
                    let bit = usize::try_from(granule - first).map_err(|_| ImageError("bitmap".into()))?;
                    if bytes[bit / 8] >> (bit % 8) & 1 != 0 {
                        bitmap.add(granule, granule + 1);
                    }
                }
            }
        }
    }
    Ok(())
}
