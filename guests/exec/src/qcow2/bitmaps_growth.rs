//! Bitmaps of an image whose disk grows: longer tables, and a directory that names them.
//!
//! A bitmap whose table is not as long as the disk needs makes the image unreadable, and disk size and directory cannot change
//! in one write. So the bitmaps are marked as in use in between: after a crash they are known to be lost, which costs a
//! full backup and no data.
//! Source: qcow2 format document, section "Bitmaps".

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::bitmap::{Bitmap, FLAG_IN_USE};
use instar_formats::qcow2::extension::bitmaps_data_offset;

use super::snapshots::{bitmap_table, placed_bitmaps};
use super::target::Qcow2Target;
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{CopySegment, Storage};

/// Offset of the flags in a directory entry.
const FLAGS: u64 = 12;
/// Offset of the directory's offset in the header extension's data.
const DIRECTORY_OFFSET: u64 = 16;

/// A directory for the grown disk, which nothing names yet.
pub(super) struct LongerBitmaps {
    /// Where the header extension names the directory.
    pointer_place: u64,
    directory_offset: u64,
    /// Offset and flags of every entry in the old directory whose bitmap is going to have another table.
    old_flags: Vec<(u64, u32)>,
    /// Host clusters of the old directory and tables.
    releases: Vec<u64>,
}

/// A bitmap that needs a longer table.
struct Longer {
    place: u64,
    bitmap: Bitmap,
    entries: u32,
}

impl Qcow2Target {
    /// Prepares longer tables where a disk of `size_bytes` needs them. Nothing on disk names them yet.
    ///
    /// # Errors
    /// If a bitmap cannot describe such a disk, before anything is written.
    pub(super) fn lengthen_bitmaps(
        &mut self,
        storage: &mut dyn Storage,
        size_bytes: u64,
    ) -> Result<Option<LongerBitmaps>> {
        let Some(pointer) = self.image.header.extensions.bitmaps else { return Ok(None) };
        let wanted = self.bitmaps_to_lengthen(storage, size_bytes)?;
        if wanted.is_empty() {
            return Ok(None);
        }
        let geometry = self.image.geometry;
        let (layer, device, size) = (self.image.layer, self.image.device, geometry.cluster_size_bytes());
        let first_cluster = read_vec(storage, layer, device, 0, size)?;
        let pointer_place = bitmaps_data_offset(&first_cluster, &self.image.header)
            .ok_or_else(|| self.image.corrupt("the bitmaps extension cannot be found"))?
            + DIRECTORY_OFFSET;
        let clusters = geometry.clusters_for(pointer.directory_size_bytes);
        let directory_offset = self.append_clusters(storage, clusters)?;
        let whole = CopySegment {
            target_offset: directory_offset,
            source: device,
            source_offset: pointer.directory_offset,
            length_bytes: clusters * size,
        };
        storage.copy(device, &[whole]).map_err(|error| self.storage_failure(error))?;
        storage.settle().map_err(|error| self.storage_failure(error))?;
        let mut longer = LongerBitmaps { pointer_place, directory_offset, old_flags: Vec::new(), releases: Vec::new() };
        longer.release(self, pointer.directory_offset, pointer.directory_size_bytes);
        for Longer { place, bitmap, entries } in wanted {
            let clusters = geometry.clusters_for(u64::from(entries) * 8);
            let table_offset = self.append_clusters(storage, clusters)?;
            let mut table = bitmap_table(storage, &self.image, &bitmap)?;
            table.resize(to_index(u64::from(entries)), 0);
            let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            bytes.resize(to_index(clusters * size), 0);
            storage.write(device, table_offset, &bytes).map_err(|error| self.storage_failure(error))?;
            let mut fields = [0; 12];
            fields[..8].copy_from_slice(&table_offset.to_be_bytes());
            fields[8..].copy_from_slice(&entries.to_be_bytes());
            let new_place = directory_offset + (place - pointer.directory_offset);
            storage.write(device, new_place, &fields).map_err(|error| self.storage_failure(error))?;
            longer.old_flags.push((place + FLAGS, bitmap.flags));
            longer.release(self, bitmap.table_offset, u64::from(bitmap.table_entries) * 8);
            if let Some(enabled) = self.bitmaps.iter_mut().find(|enabled| enabled.bitmap == bitmap) {
                enabled.bitmap.table_offset = table_offset;
                enabled.bitmap.table_entries = entries;
                enabled.table = table;
            }
        }
        Ok(Some(longer))
    }

    /// Marks the bitmaps that are going to have another table, durably: the disk may change its size now.
    pub(super) fn suspend_bitmaps(&mut self, storage: &mut dyn Storage, longer: &LongerBitmaps) -> Result<()> {
        self.make_owned(storage)?;
        for (place, flags) in &longer.old_flags {
            let flags = (flags | FLAG_IN_USE).to_be_bytes();
            storage.write(self.image.device, *place, &flags).map_err(|error| self.storage_failure(error))?;
        }
        self.barrier(storage)
    }

    /// Makes the header name the new directory, durably.
    pub(super) fn resume_bitmaps(&mut self, storage: &mut dyn Storage, longer: LongerBitmaps) -> Result<()> {
        let bytes = longer.directory_offset.to_be_bytes();
        storage.write(self.image.device, longer.pointer_place, &bytes).map_err(|error| self.storage_failure(error))?;
        self.barrier(storage)?;
        if let Some(pointer) = &mut self.image.header.extensions.bitmaps {
            pointer.directory_offset = longer.directory_offset;
        }
        self.releases.extend(longer.releases);
        Ok(())
    }

    fn bitmaps_to_lengthen(&self, storage: &mut dyn Storage, size_bytes: u64) -> Result<Vec<Longer>> {
        let mut wanted = Vec::new();
        for (place, bitmap) in placed_bitmaps(storage, &self.image)? {
            if bitmap.is_in_use() {
                // Lost already; nobody reads its table.
                continue;
            }
            let entries = bitmap.table_entries_for(size_bytes, self.image.geometry.cluster_bits).ok_or_else(|| {
                let name = alloc::string::String::from_utf8_lossy(&bitmap.name);
                let text = format_args!("the bitmap '{name}' cannot describe a disk of {size_bytes} bytes");
                Failure::new(error_kind::REFUSED, self.image.layer, text)
            })?;
            if entries != bitmap.table_entries {
                wanted.push(Longer { place, bitmap, entries });
            }
        }
        Ok(wanted)
    }

    /// Host offset of `clusters` neighbouring clusters behind everything in use.
    fn append_clusters(&mut self, storage: &mut dyn Storage, clusters: u64) -> Result<u64> {
        let first = self.allocator.append(storage, &mut self.refcounts, clusters)?;
        Ok(first << self.image.geometry.cluster_bits)
    }
}

impl LongerBitmaps {
    fn release(&mut self, target: &Qcow2Target, offset: u64, length_bytes: u64) {
        let geometry = target.image.geometry;
        self.releases.extend(geometry.cluster_index(offset)..geometry.clusters_for(offset + length_bytes));
    }
}
