//! Enabled bitmaps of an image that is written: every range that is about to change is recorded before it changes.
//!
//! A bit too many costs an incremental backup some time, a bit too few costs data; so bits are durable before the data.
//! Source: qcow2 format document, section "Bitmaps".

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec;
use alloc::vec::Vec;

use instar_formats::qcow2::bitmap::Bitmap;
use instar_plan::extent::{Extent, Source};

use super::snapshots::{bitmap_cluster_offset, bitmap_table, bitmaps};
use super::target::Qcow2Target;
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::storage::Storage;

/// A table entry without an offset and with this bit: all bits of the cluster are set.
const ALL_ONES: u64 = 1;

/// A bitmap that records writes.
pub(super) struct EnabledBitmap {
    pub(super) bitmap: Bitmap,
    pub(super) table: Vec<u64>,
    /// Clusters of the bitmap that are about to change, by their index in the table.
    clusters: BTreeMap<usize, Vec<u8>>,
}

impl Qcow2Target {
    /// The bitmaps that record writes; those marked as in use are lost already and stay so.
    pub(super) fn load_bitmaps(&mut self, storage: &mut dyn Storage) -> Result<()> {
        for bitmap in bitmaps(storage, &self.image)? {
            if bitmap.is_enabled() && !bitmap.is_in_use() {
                let table = bitmap_table(storage, &self.image, &bitmap)?;
                self.bitmaps.push(EnabledBitmap { bitmap, table, clusters: BTreeMap::new() });
            }
        }
        Ok(())
    }

    /// Sets the bits for everything in `sources` that is not `Absent`, in memory.
    pub(super) fn record(&mut self, storage: &mut dyn Storage, sources: &[Extent]) -> Result<()> {
        let size = self.image.geometry.cluster_size_bytes();
        for enabled in &mut self.bitmaps {
            for extent in sources.iter().filter(|extent| extent.source != Source::Absent) {
                let granularity_bits = u32::from(enabled.bitmap.granularity_bits);
                let bits = extent.guest_offset >> granularity_bits..=(extent.end() - 1) >> granularity_bits;
                for bit in bits {
                    let index = to_index(bit / (size * 8));
                    // What lies behind the table belongs to the part that the disk is about to grow by.
                    let entry = enabled.table.get(index).copied().unwrap_or(0);
                    let offset = bitmap_cluster_offset(entry);
                    if offset == 0 && entry & ALL_ONES != 0 {
                        continue;
                    }
                    let bytes = match enabled.clusters.entry(index) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(place) => place.insert(match offset {
                            0 => vec![0; to_index(size)],
                            _ => read_vec(storage, self.image.layer, self.image.device, offset, size)?,
                        }),
                    };
                    let bit = to_index(bit % (size * 8));
                    bytes[bit / 8] |= 1 << (bit % 8);
                }
            }
        }
        Ok(())
    }

    /// Writes what [`Qcow2Target::record`] has set, and waits until it is durable: clusters before the tables that name them.
    pub(super) fn write_bitmaps(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let bits = self.image.geometry.cluster_bits;
        let mut enabled_bitmaps = core::mem::take(&mut self.bitmaps);
        let mut entries = Vec::new();
        let mut has_written = false;
        for enabled in &mut enabled_bitmaps {
            for (index, bytes) in core::mem::take(&mut enabled.clusters) {
                let mut offset = bitmap_cluster_offset(enabled.table[index]);
                if offset == 0 {
                    offset = self.allocator.allocate(storage, &mut self.refcounts)?.0 << bits;
                    enabled.table[index] = offset;
                    entries.push((enabled.bitmap.table_offset + index as u64 * 8, offset));
                }
                storage.write(self.image.device, offset, &bytes).map_err(|error| self.storage_failure(error))?;
                has_written = true;
            }
        }
        self.bitmaps = enabled_bitmaps;
        if has_written {
            self.make_owned(storage)?;
        }
        if !entries.is_empty() {
            for (place, entry) in entries {
                storage
                    .write(self.image.device, place, &entry.to_be_bytes())
                    .map_err(|error| self.storage_failure(error))?;
            }
            self.barrier(storage)?;
        }
        Ok(())
    }
}
