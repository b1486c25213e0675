//! The refcounts that an image stores, and the counts that its tables demand.

use super::super::ImageError;
use super::super::Source;
use super::super::bytes::be64;
use super::header::Header;
use std::collections::BTreeMap;

/// Stored counts by host cluster; only clusters of existing refcount blocks appear.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) counts: BTreeMap<u64, u64>,
    /// Host offsets of the refcount blocks.
    pub(crate) blocks: Vec<u64>,
    /// Table entries that cannot be right.
    pub(crate) bad_blocks: u64,
}

impl Stored {
    pub(crate) fn read(source: &Source, header: &Header) -> Result<Self, ImageError> {
        let size = header.cluster_size();
        let table = source.bytes(header.refcount_table_offset, u64::from(header.refcount_table_clusters) * size)?;
        let bits = 1u64 << header.refcount_order;
        let per_block = size * 8 / bits;
        let mut stored = Self::default();
        for (index, entry) in table.chunks_exact(8).enumerate() {
            let offset = be64(entry, 0) & !511;
            if offset == 0 {
                continue;
            }
            if !offset.is_multiple_of(size) || offset >= source.length() {
                stored.bad_blocks += 1;
                continue;
            }
            stored.blocks.push(offset);
            let block = source.bytes(offset, size)?;
            for slot in 0..per_block {
                let count = refcount(&block, slot, bits);
                if count != 0 {
                    stored.counts.insert(index as u64 * per_block + slot, count);
                }
            }
        }
        Ok(stored)
    }
}

/// Refcount number `slot` of a block with entries of `bits` bits; narrow entries start at the low end of a byte.
fn refcount(block: &[u8], slot: u64, bits: u64) -> u64 {
    let slot = usize::try_from(slot).unwrap_or(usize::MAX);
    match bits {
        1 | 2 | 4 => {
            let per_byte = 8 / usize::try_from(bits).unwrap_or(8);
            let shift = (slot % per_byte) * usize::try_from(bits).unwrap_or(0);
            u64::from(block[slot / per_byte] >> shift) & ((1 << bits) - 1)
        }
        _ => {
            let width = usize::try_from(bits / 8).unwrap_or(8);
            block[slot * width..(slot + 1) * width].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        }
    }
}

/// Counts that the tables demand.
#[derive(Debug)]
pub(crate) struct Demanded {
    pub(crate) counts: BTreeMap<u64, u64>,
    cluster_size: u64,
    file_length: u64,
    /// References that point beyond the file by more than the format allows, or are unaligned.
    pub(crate) wild: u64,
}

impl Demanded {
    pub(crate) fn new(header: &Header, source: &Source) -> Self {
        let cluster_size = header.cluster_size();
        Self { counts: BTreeMap::new(), cluster_size, file_length: source.length(), wild: 0 }
    }

    /// Adds one reference to every cluster that the byte range touches.
    pub(crate) fn add(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (first, last) = (offset / self.cluster_size, (offset.saturating_add(length - 1)) / self.cluster_size);
        if last - first > 1 << 20 {
            self.wild += 1;
            return;
        }
        for cluster in first..=last {
            if cluster * self.cluster_size >= self.file_length {
                self.wild += 1;
            } else {
                *self.counts.entry(cluster).or_default() += 1;
            }
        }
    }
}
