//! Finds host clusters for an image that grows: the lowest free one, or a run of them behind everything else.

use alloc::vec::Vec;
use core::ops::Range;

use super::census::Census;
use super::refcounts::Refcounts;
use crate::layer::Result;
use crate::storage::Storage;

/// Where to look next.
pub(super) struct Allocator {
    census: Census,
    /// No cluster below this one is free.
    next: u64,
    /// The first cluster behind everything in use.
    end: u64,
    /// Refcount tables that had to move: the clusters of the old ones, to be released once the header names the new one.
    abandoned_tables: Vec<Range<u64>>,
}

impl Allocator {
    /// `end` is the first cluster behind all of the file's that have a refcount; a block device goes on behind it.
    pub(super) fn new(census: Census, end: u64) -> Self {
        Self { census, next: 0, end, abandoned_tables: Vec::new() }
    }

    /// The first cluster behind everything in use.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// A cluster has lost its last reference, durably: it may be handed out again.
    pub(super) fn free(&mut self, cluster: u64) {
        self.census.unmark(cluster);
        self.next = self.next.min(cluster);
    }

    /// The clusters of refcount tables that have been moved since the last call.
    pub(super) fn take_abandoned_tables(&mut self) -> Vec<Range<u64>> {
        core::mem::take(&mut self.abandoned_tables)
    }

    /// Whether a cluster lies behind the file as it was and has never been handed out, so that it reads as zeros.
    fn is_fresh(&self, cluster: u64) -> bool {
        cluster >= self.census.file_clusters && cluster >= self.end
    }

    /// Whether clusters behind the file as it was are in use.
    pub(super) fn has_grown(&self) -> bool {
        self.end > self.census.file_clusters
    }

    /// Allocates the lowest free cluster, with refcount 1; tells as well whether it reads as zeros. Refcount blocks are
    /// added and the table grows as needed.
    pub(super) fn allocate(&mut self, storage: &mut dyn Storage, refcounts: &mut Refcounts) -> Result<(u64, bool)> {
        loop {
            let cluster = self.next;
            if !refcounts.table_reaches(cluster) {
                self.grow_table(storage, refcounts)?;
                continue;
            }
            self.next += 1;
            if self.census.is_used(cluster) {
                continue;
            }
            if !refcounts.covers(cluster) {
                // The new block is the first to live in the range that it covers.
                refcounts.add_block(cluster, self.offset(refcounts, cluster));
                refcounts.set(storage, cluster, 1)?;
            } else if refcounts.get(storage, cluster)? == 0 {
                refcounts.set(storage, cluster, 1)?;
                let is_fresh = self.is_fresh(cluster);
                self.end = self.end.max(cluster + 1);
                return Ok((cluster, is_fresh));
            }
            self.end = self.end.max(self.next);
        }
    }

    /// Allocates `count` neighbouring clusters behind everything in use.
    pub(super) fn append(&mut self, storage: &mut dyn Storage, refcounts: &mut Refcounts, count: u64) -> Result<u64> {
        let entries = refcounts.block_entries();
        let first = self.end;
        // Blocks for the run come first; each of them may make another one necessary.
        let mut blocks = 0;
        loop {
            let last = first + blocks + count;
            let needed = (first / entries..last.div_ceil(entries))
                .filter(|block| !refcounts.covers(block * entries))
                .count() as u64;
            if needed <= blocks {
                break;
            }
            blocks = needed;
        }
        let end = first + blocks + count;
        if !refcounts.table_reaches(end - 1) {
            self.grow_table(storage, refcounts)?;
            return self.append(storage, refcounts, count);
        }
        let mut place = first;
        for block in first / entries..end.div_ceil(entries) {
            if !refcounts.covers(block * entries) {
                refcounts.add_block(block * entries, self.offset(refcounts, place));
                place += 1;
            }
        }
        for cluster in first..end {
            refcounts.set(storage, cluster, 1)?;
        }
        self.end = end;
        Ok(end - count)
    }

    /// Makes sure that a block covers a cluster of the file as it is.
    pub(super) fn cover(&mut self, storage: &mut dyn Storage, refcounts: &mut Refcounts, cluster: u64) -> Result<()> {
        if !refcounts.table_reaches(cluster) {
            self.grow_table(storage, refcounts)?;
        }
        if refcounts.covers(cluster) {
            return Ok(());
        }
        let place = self.append(storage, refcounts, 1)?;
        if refcounts.covers(cluster) {
            // The block that the place needed is the one that was missing.
            return refcounts.set(storage, place, 0);
        }
        refcounts.add_block(cluster, self.offset(refcounts, place));
        Ok(())
    }

    /// Moves the refcount table behind everything in use and makes it at least twice as long.
    fn grow_table(&mut self, storage: &mut dyn Storage, refcounts: &mut Refcounts) -> Result<()> {
        let (old_offset, old_count) = refcounts.table_clusters();
        let size = refcounts.cluster_size_bytes();
        let covered_by_cluster = size / 8 * refcounts.block_entries();
        let mut count = (old_count * 2).max(self.end.div_ceil(covered_by_cluster) + 1);
        // The new table has to reach its own last cluster and the blocks in between.
        while count * covered_by_cluster < self.end + count + (count * 2).div_ceil(refcounts.block_entries()) + 2 {
            count += 1;
        }
        refcounts.lengthen_table(count);
        let first = self.append(storage, refcounts, count)?;
        refcounts.move_table(first * size);
        let old_first = old_offset / size;
        self.abandoned_tables.push(old_first..old_first + old_count);
        Ok(())
    }

    fn offset(&self, refcounts: &Refcounts, cluster: u64) -> u64 {
        cluster * refcounts.cluster_size_bytes()
    }
}
