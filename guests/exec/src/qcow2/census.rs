//! A census of the host clusters of an image that is about to be written: which are in use, and whether the refcounts agree.
//!
//! Whoever allocates on stale refcounts hands out clusters that are in use, and data is lost. So every table is read once
//! before anything is written: a cluster that is referred to must have a refcount, and metadata must not be data as well.

use alloc::vec;
use alloc::vec::Vec;

use instar_formats::qcow2::entry::L2Entry;

use super::image::Image;
use super::l1::L1Table;
use super::refcounts::Refcounts;
use crate::bytes::to_index;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::Storage;

/// The most bytes of L2 tables that are read at once, unless one alone is longer.
const READ_BYTES_MAX: u64 = 256 << 10;
/// The most L2 tables that are read at once.
const READS_MAX: usize = 64;

/// The host clusters that something refers to, one bit each, up to the end of the file.
pub(super) struct Census {
    used: Vec<u64>,
    /// Number of clusters that the file is long.
    pub(super) file_clusters: u64,
}

impl Census {
    /// A census that knows nothing but how long the file is: for those who only append to it.
    pub(super) fn of_length(file_clusters: u64) -> Self {
        Self { used: Vec::new(), file_clusters }
    }

    /// Whether something refers to a host cluster.
    pub(super) fn is_used(&self, cluster: u64) -> bool {
        self.used.get(to_index(cluster / 64)).is_some_and(|word| word >> (cluster % 64) & 1 != 0)
    }

    /// Marks a cluster; tells whether it was marked before. What lies beyond the end of the file is not counted.
    fn mark(&mut self, cluster: u64) -> bool {
        if cluster >= self.file_clusters {
            return false;
        }
        let word = &mut self.used[to_index(cluster / 64)];
        let bit = 1 << (cluster % 64);
        let was_used = *word & bit != 0;
        *word |= bit;
        was_used
    }

    /// Forgets that something refers to a cluster.
    pub(super) fn unmark(&mut self, cluster: u64) {
        if let Some(word) = self.used.get_mut(to_index(cluster / 64)) {
            *word &= !(1 << (cluster % 64));
        }
    }

    /// Takes the census of `image`.
    ///
    /// # Errors
    /// If a cluster is referred to and has no refcount, is referred to twice and has a refcount of one, or a table lies
    /// beyond the end of the file.
    pub(super) fn take(storage: &mut dyn Storage, image: &mut Image, refcounts: &mut Refcounts) -> Result<Self> {
        let file_clusters = image.geometry.clusters_for(storage.length_bytes(image.device));
        let mut census = Self { used: vec![0; to_index(file_clusters.div_ceil(64))], file_clusters };
        let mut walk = Walk { storage, image, refcounts, census: &mut census };
        walk.metadata()?;
        let l1 = core::mem::take(&mut walk.image.l1);
        let outcome = walk.tables(&l1);
        walk.image.l1 = l1;
        outcome?;
        for (offset, entries) in super::snapshots::l1_tables(walk.storage, walk.image)? {
            let bytes = u64::from(entries) * 8;
            walk.metadata_range(offset, bytes, "snapshot L1 table")?;
            let l1 = L1Table::read(walk.storage, walk.image.layer, walk.image.device, offset, entries)?;
            l1.check(walk.image.layer, &walk.image.geometry, walk.storage.length_bytes(walk.image.device))?;
            walk.tables(&l1)?;
        }
        Ok(census)
    }
}

struct Walk<'a> {
    storage: &'a mut dyn Storage,
    image: &'a mut Image,
    refcounts: &'a mut Refcounts,
    census: &'a mut Census,
}

impl Walk<'_> {
    /// Everything but the L2 tables and what they refer to.
    fn metadata(&mut self) -> Result<()> {
        self.metadata_range(0, 1, "header")?;
        let header = &self.image.header;
        let (l1_offset, l1_bytes) = (header.l1_offset, u64::from(header.l1_entries) * 8);
        self.metadata_range(l1_offset, l1_bytes, "L1 table")?;
        let size = self.image.geometry.cluster_size_bytes();
        let (table_offset, table_clusters) = self.refcounts.table_clusters();
        self.metadata_range(table_offset, table_clusters * size, "refcount table")?;
        let blocks: Vec<u64> = self.refcounts.block_offsets().collect();
        for offset in blocks {
            self.metadata_range(offset, size, "refcount block")?;
        }
        for range in super::snapshots::other_metadata(self.storage, self.image)? {
            self.metadata_range(range.offset, range.length_bytes, range.what)?;
        }
        Ok(())
    }

    /// Marks the clusters of a table that belongs to nothing else.
    fn metadata_range(&mut self, offset: u64, length_bytes: u64, what: &str) -> Result<()> {
        let geometry = self.image.geometry;
        let end = offset.saturating_add(length_bytes);
        for cluster in geometry.cluster_index(offset)..geometry.clusters_for(end) {
            if self.census.mark(cluster) {
                return Err(self.image.corrupt(format_args!("the {what} at {offset:#x} overlaps other metadata")));
            }
            self.expect_refcount(cluster, what)?;
        }
        Ok(())
    }

    fn expect_refcount(&mut self, cluster: u64, what: &str) -> Result<u64> {
        let count = self.refcounts.get(self.storage, cluster)?;
        if count == 0 {
            let offset = cluster << self.image.geometry.cluster_bits;
            return Err(self.image.corrupt(format_args!("the {what} at {offset:#x} is in use but has refcount 0")));
        }
        Ok(count)
    }

    /// All L2 tables of an L1 table, and the clusters they refer to.
    fn tables(&mut self, l1: &L1Table) -> Result<()> {
        let geometry = self.image.geometry;
        let mut unread = Vec::new();
        for (_, table) in l1.tables_from(0) {
            let cluster = geometry.cluster_index(table);
            let count = self.expect_refcount(cluster, "L2 table")?;
            if !self.census.mark(cluster) {
                unread.push(table);
            } else if count < 2 {
                return Err(self.image.corrupt(format_args!("the L2 table at {table:#x} overlaps other metadata")));
            }
            // Otherwise another L1 table shares it, and its clusters are counted there.
        }
        let at_once = to_index(READ_BYTES_MAX / geometry.cluster_size_bytes()).clamp(1, READS_MAX);
        unread.chunks(at_once).try_for_each(|tables| self.read_tables(tables))
    }

    /// Reads L2 tables, all with one request, and counts the clusters they refer to.
    fn read_tables(&mut self, tables: &[u64]) -> Result<()> {
        let geometry = self.image.geometry;
        let mut buffers = vec![vec![0; to_index(geometry.cluster_size_bytes())]; tables.len()];
        let buffers_of_tables = buffers.iter_mut().map(Vec::as_mut_slice);
        let mut ranges: Vec<(u64, &mut [u8])> = tables.iter().copied().zip(buffers_of_tables).collect();
        let read = self.storage.read_many(self.image.device, &mut ranges);
        read.map_err(|error| Failure::storage(self.image.layer, error))?;
        for (table, bytes) in tables.iter().zip(buffers) {
            L2Entry::for_each_found(&geometry, &bytes, |index, entry| {
                if entry.is_unallocated() { Ok(()) } else { self.entry(*table, index, entry) }
            })?;
            self.image.slices.keep(*table, bytes);
        }
        Ok(())
    }

    /// What one L2 entry refers to.
    fn entry(&mut self, table: u64, index: usize, entry: L2Entry) -> Result<()> {
        let geometry = self.image.geometry;
        entry.check(&geometry).map_err(|error| {
            self.image.corrupt(format_args!("{error} (L2 offset: {table:#x}, L2 index: {index:#x})"))
        })?;
        if let Some(range) = entry.compressed_range(&geometry) {
            let end = range.host_offset.saturating_add(range.length_bytes);
            for cluster in
                geometry.cluster_index(range.host_offset)..geometry.clusters_for(end).min(self.census.file_clusters)
            {
                // The length is only known to the sector, so the last cluster may hold nothing of it; but the first one does.
                if cluster == geometry.cluster_index(range.host_offset)
                    || self.refcounts.get(self.storage, cluster)? != 0
                {
                    self.expect_refcount(cluster, "compressed cluster")?;
                    self.census.mark(cluster);
                }
            }
            return Ok(());
        }
        let Some(host_offset) = entry.host_offset(&geometry) else { return Ok(()) };
        if geometry.external_data {
            return Ok(());
        }
        let cluster = geometry.cluster_index(host_offset);
        let count = self.expect_refcount(cluster, "data cluster")?;
        if self.census.mark(cluster) && count < 2 {
            return Err(self.image.corrupt(format_args!(
                "the data cluster at {host_offset:#x} is used twice but has refcount 1 (L2 offset: {table:#x}, L2 index: {index:#x})"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn clusters_are_marked_and_unmarked_one_by_one() {
        let mut census = Census { used: vec![0; 3], file_clusters: 150 };
        for cluster in [0, 1, 63, 64, 65, 149] {
            assert!(!census.mark(cluster) && census.mark(cluster), "{cluster}");
        }
        census.unmark(64);
        census.unmark(1);
        let used: Vec<u64> = (0..160).filter(|cluster| census.is_used(*cluster)).collect();
        assert_eq!(used, [0, 63, 65, 149]);
        // Behind the end of the file nothing is counted.
        assert!(!census.mark(150) && !census.mark(150) && !census.is_used(150));
        census.unmark(5000);
    }
}
