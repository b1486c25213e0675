//! Counts the references to the host clusters of an image, a window of clusters at a time, so that memory stays bounded.

use alloc::vec;
use alloc::vec::Vec;

use instar_formats::qcow2::entry::L2Entry;
use instar_plan::repair::{Owner, References};

use super::Repair;
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::qcow2::image::Image;
use crate::qcow2::l1::L1Table;
use crate::storage::Storage;

/// The most clusters that are counted at once: 16 MiB of counts.
const WINDOW_CLUSTERS_MAX: u64 = 4 << 20;

/// The counts of neighbouring clusters.
pub(super) struct Window {
    first: u64,
    counts: Vec<References>,
    /// Number of clusters that the file is long.
    file_clusters: u64,
}

impl Window {
    /// A window from `first` on that does not reach beyond the file.
    pub(super) fn new(first: u64, file_clusters: u64) -> Self {
        let count = WINDOW_CLUSTERS_MAX.min(file_clusters - first);
        Self { first, counts: vec![References::default(); to_index(count)], file_clusters }
    }

    /// The counts, from the window's first cluster on.
    pub(super) fn references(&self) -> &[References] {
        &self.counts
    }

    /// The cluster behind the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.counts.len() as u64
    }

    fn begin_tree(&mut self) {
        self.counts.iter_mut().for_each(References::begin_tree);
    }

    /// Counts a reference to each cluster that a range touches; `what` it is, for messages.
    fn add(&mut self, image: &Image, offset: u64, length_bytes: u64, owner: Owner, what: &str) -> Result<()> {
        let geometry = image.geometry;
        let first = geometry.cluster_index(offset);
        let mut end = geometry.clusters_for(offset.saturating_add(length_bytes)).max(first);
        if owner == Owner::Packed && first < self.file_clusters {
            // The length is only known to the sector, and the file may end within the last one.
            end = end.min(self.file_clusters);
        }
        if end > self.file_clusters {
            return Err(image.corrupt(format_args!("the {what} at {offset:#x} lies beyond the end of the file")));
        }
        let window_end = self.end();
        for cluster in first.max(self.first)..end.min(window_end) {
            self.counts[to_index(cluster - self.first)].add(owner).map_err(|_| {
                let place = cluster << geometry.cluster_bits;
                image.corrupt(format_args!("the {what} at {offset:#x} overlaps something else at {place:#x}"))
            })?;
        }
        Ok(())
    }
}

impl Repair {
    /// Counts everything that refers to clusters of the window.
    ///
    /// # Errors
    /// If tables overlap, leave the file, or hold entries that are invalid.
    pub(super) fn count(&mut self, storage: &mut dyn Storage, window: &mut Window) -> Result<()> {
        let image = &self.image;
        for range in &self.metadata {
            window.add(image, range.offset, range.length_bytes, Owner::Metadata, range.what)?;
        }
        tree(storage, image, &image.l1, window)?;
        for &(offset, entries) in &self.snapshots {
            window.add(image, offset, u64::from(entries) * 8, Owner::Metadata, "snapshot L1 table")?;
            let l1 = L1Table::read(storage, image.layer, image.device, offset, entries)?;
            l1.check(image.layer, &image.geometry, storage.length_bytes(image.device))?;
            window.begin_tree();
            tree(storage, image, &l1, window)?;
        }
        Ok(())
    }
}

/// Counts what one L1 table leads to.
fn tree(storage: &mut dyn Storage, image: &Image, l1: &L1Table, window: &mut Window) -> Result<()> {
    let geometry = image.geometry;
    let size = geometry.cluster_size_bytes();
    for (_, table) in l1.tables_from(0) {
        window.add(image, table, size, Owner::Table, "L2 table")?;
        let bytes = read_vec(storage, image.layer, image.device, table, size)?;
        for index in 0..to_index(geometry.l2_entries()) {
            let entry = L2Entry::read(&geometry, &bytes, index);
            if entry.is_unallocated() {
                continue;
            }
            entry.check(&geometry).map_err(|error| {
                image.corrupt(format_args!("{error} (L2 offset: {table:#x}, L2 index: {index:#x})"))
            })?;
            if let Some(range) = entry.compressed_range(&geometry) {
                window.add(image, range.host_offset, range.length_bytes, Owner::Packed, "compressed cluster")?;
            } else if let Some(host_offset) = entry.host_offset(&geometry).filter(|_| !geometry.external_data) {
                window.add(image, host_offset, size, Owner::Data, "data cluster")?;
            }
        }
    }
    Ok(())
}
