//! A qcow2 image that receives extents: carries out what the planner says, and keeps the order of writes.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use instar_formats::qcow2::entry::{L1Entry, L2Entry};
use instar_formats::qcow2::feature;
use instar_plan::commit::{HostCluster, Step, TargetCluster, plan_commit_qcow2};
use instar_plan::extent::{Extent, Source};
use instar_plan::planted::{self, Bug};

use super::allocator::Allocator;
use super::bitmaps::EnabledBitmap;
use super::census::Census;
use super::image::Image;
use super::packed::PackedEnd;
use super::refcounts::Refcounts;
use super::vacated::Vacated;
use super::waiting::Waiting;
use crate::bytes::{read_vec, to_index};
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::Storage;
use crate::target::Target;
use crate::transfer::Transfer;

/// Bytes of tables that may wait for [`Target::make_visible`].
const UNWRITTEN_BYTES_MAX: u64 = 8 << 20;
/// Releases that may wait for it.
const RELEASES_MAX: usize = 1 << 18;
/// The most clusters that are planned at once.
const WINDOW_CLUSTERS_MAX: u64 = 8192;
/// The most bytes that are planned at once: few enough extents for the sandbox's memory, even if each is 512 bytes long.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
/// What lies at least so many clusters apart is planned apart: nobody looks at what lies between. With fewer than 2 a cluster could be
/// planned twice.
const GAP_CLUSTERS: u64 = 8;
const _: () = assert!(GAP_CLUSTERS >= 2);

/// A qcow2 image that is written.
pub struct Qcow2Target {
    pub(super) image: Image,
    pub(super) refcounts: Refcounts,
    pub(super) allocator: Allocator,
    pub(super) transfer: Transfer,
    /// Clusters that are to be written and have no place yet.
    pub(super) waiting: Waiting,
    /// Indexes of L1 entries that have changed.
    dirty_l1: BTreeSet<u64>,
    /// Host clusters that lose one reference each once nothing on disk refers to them any more.
    pub(super) releases: Vec<u64>,
    /// Places of the external data file that nothing on disk will refer to any more.
    vacated: Vacated,
    /// Whether these must stay as they are until nothing refers to them: the image is all that shows them. A target that layers
    /// above hide is better cleared first, because nobody would come back for it.
    pub(super) clears_data_last: bool,
    pub(super) bitmaps: Vec<EnabledBitmap>,
    /// Where the next packed cluster goes.
    pub(super) packed_end: PackedEnd,
    /// Behind the last host byte that any write of data or of an L1 table needs.
    written_end_bytes: u64,
    has_backing: bool,
}

impl Qcow2Target {
    /// Prepares `image` for writing: takes the census.
    /// `has_backing` says whether layers lie below it.
    ///
    /// # Errors
    /// If the image is marked corrupt or dirty, or its metadata contradicts itself. Nothing has been written then.
    pub fn new(storage: &mut dyn Storage, mut image: Image, has_backing: bool) -> Result<Self> {
        if image.header.is_corrupt() {
            return Err(image.corrupt("the image is marked corrupt; repair it first (qemu-img check -r all)"));
        }
        if image.header.is_dirty() {
            return Err(image.corrupt(
                "the image was not closed properly and its refcounts cannot be trusted; repair it first (qemu-img check -r all)",
            ));
        }
        let mut refcounts = Refcounts::open(storage, image.layer, image.device, &image.header)?;
        let census = Census::take(storage, &mut image, &mut refcounts)?;
        let transfer = Transfer::new(image.layer, image.data_device);
        let end = refcounts.end(storage)?.min(census.file_clusters);
        let allocator = Allocator::new(census, end);
        let mut target = Self {
            image,
            refcounts,
            allocator,
            transfer,
            waiting: Waiting::default(),
            dirty_l1: BTreeSet::new(),
            releases: Vec::new(),
            vacated: Vacated::default(),
            clears_data_last: false,
            bitmaps: Vec::new(),
            packed_end: PackedEnd::default(),
            written_end_bytes: 0,
            has_backing,
        };
        target.load_bitmaps(storage)?;
        Ok(target)
    }

    /// As [`Layer::next_mapped`].
    pub(super) fn next_mapped(&self, from: u64) -> u64 {
        self.image.next_mapped(from)
    }

    /// The clusters in `start..end` that hold or hide something.
    pub(super) fn mapped_clusters(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<Vec<u64>> {
        let mut clusters = Vec::new();
        self.image.walk(storage, start, end, |image, offset, _, entries| {
            let first = image.geometry.cluster_index(offset);
            let mapped = entries.iter().filter(|(_, entry)| !entry.is_unallocated());
            clusters.extend(mapped.map(|(index, _)| first + index));
            Ok(())
        })?;
        Ok(clusters)
    }

    /// Host bytes before `end_bytes` are needed.
    pub(super) fn note_end(&mut self, end_bytes: u64) {
        self.written_end_bytes = self.written_end_bytes.max(end_bytes);
    }

    /// How long the file has to be: up to the last cluster's end, unless that one holds something shorter.
    fn needed_end_bytes(&self) -> u64 {
        let end = self.allocator.end() << self.image.geometry.cluster_bits;
        let written = self.written_end_bytes;
        if written.next_multiple_of(self.image.geometry.cluster_size_bytes()) == end { written } else { end }
    }

    pub(super) fn storage_failure(&self, error: crate::StorageError) -> Failure {
        Failure::storage(self.image.layer, error)
    }

    /// The clusters from `first` to before `last`, as the planner wants them.
    fn clusters(&mut self, storage: &mut dyn Storage, first: u64, last: u64) -> Result<Vec<TargetCluster>> {
        let geometry = self.image.geometry;
        let mut entries = vec![L2Entry::UNALLOCATED; to_index(last - first)];
        let (start, end) = (first << geometry.cluster_bits, last << geometry.cluster_bits);
        self.image.walk(storage, start, end, |_, offset, _, found| {
            let place = geometry.cluster_index(offset) - first;
            found.iter().for_each(|(index, entry)| entries[to_index(place + index)] = *entry);
            Ok(())
        })?;
        let mut clusters = Vec::with_capacity(entries.len());
        for entry in entries {
            let host = match entry.host_offset(&geometry) {
                None => HostCluster::None,
                Some(_) if geometry.external_data => HostCluster::Exclusive,
                Some(offset) => match self.refcounts.get(storage, geometry.cluster_index(offset))? {
                    1 => HostCluster::Exclusive,
                    _ => HostCluster::Shared,
                },
            };
            clusters.push(TargetCluster { entry, host });
        }
        Ok(clusters)
    }

    /// The steps that make the image show `sources`.
    fn plan(&mut self, storage: &mut dyn Storage, sources: &[Extent]) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let gap_bytes = GAP_CLUSTERS << self.image.geometry.cluster_bits;
        let is_gap = |extent: &Extent| extent.source == Source::Absent && extent.length_bytes >= gap_bytes;
        for group in sources.split(is_gap) {
            self.plan_group(storage, group, &mut steps)?;
        }
        Ok(steps)
    }

    /// The steps for sources that lie close together.
    fn plan_group(&mut self, storage: &mut dyn Storage, sources: &[Extent], steps: &mut Vec<Step>) -> Result<()> {
        let mut present = sources.iter().filter(|extent| extent.source != Source::Absent);
        let Some(first) = present.next() else { return Ok(()) };
        let end = present.next_back().unwrap_or(first).end();
        let geometry = self.image.geometry;
        let (first, last) = (geometry.cluster_index(first.guest_offset), geometry.clusters_for(end));
        let clusters = self.clusters(storage, first, last)?;
        let target = instar_plan::commit::Target {
            geometry,
            size_bytes: self.image.size_bytes(),
            has_backing: self.has_backing,
        };
        plan_commit_qcow2(&target, first, &clusters, sources, steps);
        Ok(())
    }

    /// Changes the entry of a guest cluster, and notes what the old one held for release.
    pub(super) fn replace(&mut self, storage: &mut dyn Storage, cluster: u64, entry: L2Entry) -> Result<()> {
        let geometry = self.image.geometry;
        let guest_offset = cluster << geometry.cluster_bits;
        // An entry that stays as it is needs no table of its own.
        if let Some(table) = self.image.l2_table(guest_offset) {
            let (slice, index) = self.image.slice_of(table, guest_offset);
            if L2Entry::read(&geometry, self.image.slices.get(storage, slice)?, index) == entry {
                return Ok(());
            }
        }
        let table = self.own_l2_table(storage, guest_offset)?;
        let (slice, index) = self.image.slice_of(table, guest_offset);
        let bytes = self.image.slices.get_mut(storage, slice)?;
        let old = L2Entry::read(&geometry, bytes, index);
        entry.write(&geometry, bytes, index);
        if let Some(range) = old.compressed_range(&geometry) {
            if planted::is(Bug::CompressedRefcountKept) {
                return Ok(());
            }
            let end = range.host_offset + range.length_bytes;
            self.releases.extend(geometry.cluster_index(range.host_offset)..geometry.clusters_for(end));
        } else if geometry.external_data {
            self.vacated.note(&geometry, old, entry);
        } else if let Some(offset) = old.host_offset(&geometry)
            && entry.host_offset(&geometry) != Some(offset)
        {
            self.releases.push(geometry.cluster_index(offset));
        }
        Ok(())
    }

    fn clear_vacated_data(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let cleared = self.vacated.clear(storage, self.image.data_device);
        cleared.map_err(|error| self.storage_failure(error))
    }

    /// Offset of the L2 table for a guest offset; makes one, or a copy of one that a snapshot shares.
    pub(super) fn own_l2_table(&mut self, storage: &mut dyn Storage, guest_offset: u64) -> Result<u64> {
        let geometry = self.image.geometry;
        let old = self.image.l2_table(guest_offset);
        if let Some(table) = old
            && self.refcounts.get(storage, geometry.cluster_index(table))? == 1
        {
            return Ok(table);
        }
        let size = geometry.cluster_size_bytes();
        let (cluster, _) = self.allocator.allocate(storage, &mut self.refcounts)?;
        let table = cluster << geometry.cluster_bits;
        let slice_bytes = self.image.slices.slice_bytes();
        for offset in (0..size).step_by(to_index(slice_bytes)) {
            match old {
                None => self.image.slices.insert_zero(table + offset),
                Some(old) => {
                    let bytes = read_vec(storage, self.image.layer, self.image.device, old + offset, slice_bytes)?;
                    self.image.slices.insert_new(table + offset, bytes);
                }
            }
        }
        if let Some(old) = old {
            self.releases.push(geometry.cluster_index(old));
        }
        let l1_index = geometry.l1_index(guest_offset);
        assert!(l1_index < self.image.header.l1_entries.into(), "the L1 table is as long as the disk asks for");
        self.image.l1.set(l1_index, L1Entry::owned(table));
        self.dirty_l1.insert(l1_index);
        Ok(table)
    }

    fn write_l1(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let dirty: Vec<u64> = core::mem::take(&mut self.dirty_l1).into_iter().collect();
        for run in dirty.chunk_by(|left, right| left + 1 == *right) {
            let bytes: Vec<u8> = run.iter().flat_map(|index| self.image.l1.get(*index).0.to_be_bytes()).collect();
            storage
                .write(self.image.device, self.image.header.l1_offset + run[0] * 8, &bytes)
                .map_err(|error| self.storage_failure(error))?;
        }
        Ok(())
    }

    /// Takes one reference from every cluster that is to be released, and gives back the space of those without any.
    fn release(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let size = self.image.geometry.cluster_size_bytes();
        let mut free = Vec::new();
        for cluster in core::mem::take(&mut self.releases) {
            let count = self.refcounts.get(storage, cluster)?;
            if count == 0 {
                continue;
            }
            self.refcounts.set(storage, cluster, count - 1)?;
            if count == 1 {
                self.allocator.free(cluster);
                free.push(cluster);
            }
        }
        free.sort_unstable();
        for run in free.chunk_by(|left, right| left + 1 == *right) {
            storage
                .discard(self.image.device, run[0] * size, run.len() as u64 * size)
                .map_err(|error| self.storage_failure(error))?;
        }
        self.refcounts.write_blocks(storage)
    }

    pub(super) fn barrier(&self, storage: &mut dyn Storage) -> Result<()> {
        storage.flush(self.image.device).map_err(|error| self.storage_failure(error))
    }

    /// Makes data, new tables and refcounts durable; where the refcount table has grown, block by block before the table,
    /// and the table before the header.
    pub(super) fn make_owned(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.place_waiting(storage)?;
        self.transfer.hand_on(storage)?;
        self.write_packed(storage)?;
        storage.settle().map_err(|error| self.storage_failure(error))?;
        let end = self.needed_end_bytes();
        if self.allocator.has_grown() && storage.length_bytes(self.image.device) < end {
            storage.resize(self.image.device, end).map_err(|error| self.storage_failure(error))?;
        }
        self.image.slices.write_new(storage)?;
        self.refcounts.write_blocks(storage)?;
        if self.image.geometry.external_data {
            storage.flush(self.image.data_device).map_err(|error| self.storage_failure(error))?;
        }
        if self.refcounts.table_has_changed() {
            self.barrier(storage)?;
            self.refcounts.write_table(storage)?;
        }
        let abandoned = self.allocator.take_abandoned_tables();
        if !abandoned.is_empty() {
            self.barrier(storage)?;
            self.refcounts.write_table_place(storage)?;
            self.releases.extend(abandoned.into_iter().flatten());
        }
        if planted::is(Bug::NoBarrierBeforeTables) {
            return Ok(());
        }
        self.barrier(storage)
    }
}

impl Target for Qcow2Target {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn grow(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()> {
        let size_bytes = if planted::is(Bug::BaseNotGrown) { self.size_bytes() } else { size_bytes };
        self.grow_disk(storage, below, size_bytes)
    }

    fn window_bytes(&self) -> u64 {
        let geometry = &self.image.geometry;
        geometry.l2_entries().min(WINDOW_CLUSTERS_MAX).min(WINDOW_BYTES_MAX >> geometry.cluster_bits)
            << geometry.cluster_bits
    }

    fn announce(&mut self, storage: &mut dyn Storage, sources: &[Extent]) -> Result<()> {
        self.record(storage, sources)
    }

    fn announced(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if self.image.header.has_unknown_autoclear() {
            // Whatever these bits vouch for, it no longer holds once the image has been written.
            self.image.header.autoclear_features &= feature::KNOWN_AUTOCLEAR;
            let bits = self.image.header.autoclear_features.to_be_bytes();
            storage.write(self.image.device, 88, &bits).map_err(|error| self.storage_failure(error))?;
            self.barrier(storage)?;
        }
        self.write_bitmaps(storage)
    }

    fn vacate(&mut self, storage: &mut dyn Storage, sources: &[Extent]) -> Result<bool> {
        let waiting = self.releases.len() + self.vacated.len();
        for step in self.plan(storage, sources)? {
            if let Step::Replace { cluster, entry } = step {
                self.replace(storage, cluster, entry)?;
            }
        }
        Ok(self.releases.len() + self.vacated.len() > waiting)
    }

    fn put(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()> {
        for step in self.plan(storage, sources)? {
            self.carry_out(storage, below, step)?;
        }
        if self.waiting.is_in_long_runs() {
            self.place_waiting(storage)?;
        }
        self.transfer.hand_on(storage)
    }

    fn place(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.place_waiting(storage)?;
        self.transfer.hand_on(storage)
    }

    fn is_under_pressure(&self) -> bool {
        let waiting_bytes = self.waiting.slices() * self.image.slices.slice_bytes();
        let tables = self.image.slices.unwritten_bytes() + self.refcounts.unwritten_bytes() + waiting_bytes;
        tables > UNWRITTEN_BYTES_MAX || self.releases.len() + self.vacated.len() > RELEASES_MAX
    }

    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if !self.clears_data_last {
            self.clear_vacated_data(storage)?;
        }
        if planted::is(Bug::ReleasedTooEarly) {
            self.release(storage)?;
        }
        self.make_owned(storage)?;
        if self.image.slices.has_dirty() || !self.dirty_l1.is_empty() {
            self.image.slices.write_dirty(storage)?;
            self.write_l1(storage)?;
            if !planted::is(Bug::NoBarrierBeforeEmptying) {
                self.barrier(storage)?;
            }
        }
        if !self.releases.is_empty() {
            self.release(storage)?;
            self.barrier(storage)?;
        }
        if !self.vacated.is_empty() {
            self.clear_vacated_data(storage)?;
            storage.flush(self.image.data_device).map_err(|error| self.storage_failure(error))?;
        }
        Ok(())
    }
}
