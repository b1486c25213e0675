//! Dirty bitmaps of a qcow2 image: which parts of the disk they name as changed.
//!
//! Cannot see: whether bits are set in vain, and bitmaps of images whose autoclear bit says that they are out of date.

use super::super::bytes::{be32, be64};
use super::super::{Files, ImageError, bad};
use super::Qcow2;
use super::entries::OFFSET_MASK;
use std::path::Path;

/// The bitmap was not saved properly.
const IN_USE: u32 = 1;
/// The bitmap records writes.
const AUTO: u32 = 2;

/// A bitmap that records writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for, as a power of two.
    pub granularity_bits: u32,
    /// By table entry: the cluster's bytes, or one value for all of them.
    clusters: Vec<Result<Vec<u8>, u8>>,
    cluster_bits: u64,
}

impl Bitmap {
    /// Whether the bit for a byte of the disk is set.
    pub fn names(&self, offset: u64) -> bool {
        let bit = offset >> self.granularity_bits;
        let (index, inside) = (bit / self.cluster_bits, bit % self.cluster_bits);
        let cluster = usize::try_from(index).ok().and_then(|index| self.clusters.get(index));
        let byte = |bytes: &[u8]| bytes[usize::try_from(inside / 8).unwrap_or(0)];
        let byte = match cluster {
            Some(Ok(bytes)) => byte(bytes),
            Some(Err(value)) => *value,
            None => 0,
        };
        byte >> (inside % 8) & 1 == 1
    }
}

/// The bitmaps of the image at `path` that record writes.
pub fn enabled_bitmaps(among: &dyn Files, path: &Path) -> Result<Vec<Bitmap>, ImageError> {
    let image = Qcow2::open(among, path)?;
    let Some(extension) = image.header.bitmaps.filter(|_| image.header.autoclear & 1 != 0) else {
        return Ok(Vec::new());
    };
    let size = image.header.cluster_size();
    let directory = image.source.bytes(extension.directory_offset, extension.directory_size)?;
    let mut found = Vec::new();
    let mut at = 0usize;
    for _ in 0..extension.count {
        let Some(entry) = directory.get(at..at + 24) else { return bad("bitmap directory too short") };
        let (flags, granularity_bits) = (be32(entry, 12), u32::from(entry[17]));
        let name_length = usize::from(u16::from_be_bytes([entry[18], entry[19]]));
        let name_start = at + 24 + be32(entry, 20) as usize;
        let Some(name) = directory.get(name_start..name_start + name_length) else { return bad("bitmap name") };
        at = (name_start + name_length).next_multiple_of(8);
        if flags & (IN_USE | AUTO) != AUTO || granularity_bits > 31 {
            continue;
        }
        let table = image.source.bytes(be64(entry, 0), u64::from(be32(entry, 8)) * 8)?;
        let cluster = |slot: &[u8]| match be64(slot, 0) & OFFSET_MASK {
            0 => Ok(Err(if be64(slot, 0) & 1 == 1 { 0xff } else { 0 })),
            offset => image.source.bytes(offset, size).map(Ok),
        };
        let clusters = table.chunks_exact(8).map(cluster).collect::<Result<_, _>>()?;
        let name = String::from_utf8_lossy(name).into_owned();
        found.push(Bitmap { name, granularity_bits, clusters, cluster_bits: size * 8 });
    }
    Ok(found)
}
