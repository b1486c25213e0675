//! Writes a sparse extent: carries out what the planner says, and keeps the order of writes.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::{GrainEntry, SECTOR_BYTES};
use instar_plan::commit::{GrainStep, Place, SparseTarget, plan_commit_vmdk};
use instar_plan::extent::{self, Extent, Source};

use super::census;
use super::packer;
use super::sparse::{Sparse, read_directory};
use crate::bytes::to_index;
use crate::layer::{Layer, Result, map_chain};
use crate::report::Failure;
use crate::storage::Storage;
use crate::transfer::Transfer;

/// "File too large".
const EFBIG: i32 = 27;

/// What lies below the image that is written.
pub(super) struct Below<'a> {
    /// The layers, topmost first.
    pub(super) layers: &'a mut [Box<dyn Layer>],
    /// Whether anything shows through where the image holds nothing, now or once it has another parent.
    pub(super) shows_through: bool,
    /// Why they cannot be relied on, if so: the topmost one is not the parent that the image was made for.
    pub(super) refusal: Option<&'a Failure>,
}

/// Writes one sparse extent.
pub(super) struct Writer {
    transfer: Transfer,
    /// Sectors of the second set of grain tables, where the extent has one.
    redundant: Option<Vec<u32>>,
    /// Tables that the file's directories do not name yet.
    new_tables: BTreeSet<u64>,
    /// Whether anything was written since the last barrier.
    is_dirty: bool,
}

impl Writer {
    /// Prepares an extent for writing. Nothing is written.
    ///
    /// # Errors
    /// If its metadata contradicts itself, or it is of a form that cannot be written.
    pub(super) fn new(storage: &mut dyn Storage, sparse: &mut Sparse) -> Result<Self> {
        if sparse.header.is_footer {
            let text = "a vmdk extent whose header stands at its end cannot be written";
            return Err(Failure::new(error_kind::UNSUPPORTED, sparse.layer, text));
        }
        let redundant = match sparse.header.redundant_offset {
            Some(offset) if offset != sparse.header.directory_offset => {
                Some(read_directory(storage, sparse.layer, sparse.device, &sparse.header, offset)?)
            }
            _ => None,
        };
        if sparse.header.compression.is_none() {
            census::check(storage, sparse, redundant.as_deref())?;
        }
        let transfer = Transfer::new(sparse.layer, sparse.device);
        Ok(Self { transfer, redundant, new_tables: BTreeSet::new(), is_dirty: false })
    }

    /// Makes the extent, which begins on the disk at `start`, show `sources`. All of them lie in it.
    pub(super) fn put(
        &mut self,
        storage: &mut dyn Storage,
        sparse: &mut Sparse,
        start: u64,
        below: &mut Below<'_>,
        sources: &[Extent],
    ) -> Result<()> {
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(()) };
        let geometry = sparse.geometry();
        if !(first.guest_offset - start).is_multiple_of(geometry.grain_size_bytes) {
            // The grain's beginning may still be on its way from an earlier call.
            storage.settle().map_err(|error| Failure::storage(sparse.layer, error))?;
        }
        let target = SparseTarget {
            geometry,
            start,
            has_backing: below.shows_through,
            is_compressed: sparse.header.compression.is_some(),
        };
        let first_grain = geometry.grain_index(first.guest_offset - start);
        let count = geometry.grains_for(last.end() - start) - first_grain;
        let entries = sparse.entries(storage, first_grain, count)?;
        let mut steps = Vec::new();
        plan_commit_vmdk(&target, first_grain, &entries, sources, &mut steps);
        self.is_dirty |= !steps.is_empty();
        for step in &steps {
            self.carry_out(storage, sparse, start, below, step)?;
        }
        self.transfer.hand_on(storage)
    }

    fn carry_out(
        &mut self,
        storage: &mut dyn Storage,
        sparse: &mut Sparse,
        start: u64,
        below: &mut Below<'_>,
        step: &GrainStep,
    ) -> Result<()> {
        match step {
            GrainStep::Zero { grain } => self.set_entry(storage, sparse, *grain, GrainEntry::Zeroed),
            GrainStep::Write { place: Place::Existing(host_offset), grain, pieces } => {
                let grain_start = start + sparse.geometry().grain_start(*grain);
                for piece in pieces {
                    let offset = host_offset + (piece.guest_offset - grain_start);
                    self.transfer.push(storage, offset, piece.length_bytes, piece.source)?;
                }
                Ok(())
            }
            GrainStep::Write { place: Place::New, grain, pieces } => {
                let view = current_view(storage, sparse, start, below, pieces)?;
                let host_offset = self.put_new(storage, sparse, start, *grain, &view)?;
                let sector = u32::try_from(host_offset / SECTOR_BYTES).map_err(|_| too_large(sparse.layer))?;
                self.set_entry(storage, sparse, *grain, GrainEntry::Allocated(sector))
            }
        }
    }

    /// Puts a whole grain behind everything else; gives its offset.
    fn put_new(
        &mut self,
        storage: &mut dyn Storage,
        sparse: &mut Sparse,
        start: u64,
        grain: u64,
        pieces: &[Extent],
    ) -> Result<u64> {
        let (geometry, layer) = (sparse.geometry(), sparse.layer);
        let extent_offset = geometry.grain_start(grain);
        let Some(compression) = sparse.header.compression else {
            let host_offset = append(sparse, geometry.grain_size_bytes, geometry.grain_size_bytes)?;
            // Behind the old end of the file there is nothing but zeros yet.
            for piece in pieces.iter().filter(|piece| piece.source != Source::Zero) {
                let offset = host_offset + (piece.guest_offset - start - extent_offset);
                self.transfer.push(storage, offset, piece.length_bytes, piece.source)?;
            }
            return Ok(host_offset);
        };
        let bytes = packer::pack(storage, layer, compression, geometry.grain_size_bytes, extent_offset, pieces)?;
        let host_offset = append(sparse, SECTOR_BYTES, bytes.len() as u64)?;
        storage.write(sparse.device, host_offset, &bytes).map_err(|error| Failure::storage(layer, error))?;
        Ok(host_offset)
    }

    /// Changes the entry of a grain, in a new table if there is none yet.
    fn set_entry(
        &mut self,
        storage: &mut dyn Storage,
        sparse: &mut Sparse,
        grain: u64,
        entry: GrainEntry,
    ) -> Result<()> {
        let geometry = sparse.geometry();
        let index = geometry.table_index(grain);
        if sparse.directory[to_index(index)] == 0 {
            sparse.directory[to_index(index)] = append_table(sparse)?;
            if let Some(redundant) = &mut self.redundant {
                redundant[to_index(index)] = append_table(sparse)?;
            }
            sparse.changed.insert(index, vec![0; to_index(geometry.table_bytes())]);
            self.new_tables.insert(index);
        }
        let at = to_index(geometry.entry_index(grain) * 4);
        sparse.table_mut(storage, index)?[at..at + 4].copy_from_slice(&entry.encode().to_le_bytes());
        Ok(())
    }

    /// Bytes of tables that wait for [`Writer::make_visible`].
    pub(super) fn unwritten_bytes(sparse: &Sparse) -> u64 {
        sparse.changed.len() as u64 * sparse.geometry().table_bytes()
    }

    /// Makes everything put so far durable: grains and new tables, barrier, tables in use and directories, barrier.
    pub(super) fn make_visible(&mut self, storage: &mut dyn Storage, sparse: &mut Sparse) -> Result<()> {
        if !core::mem::take(&mut self.is_dirty) {
            return Ok(());
        }
        let (layer, device) = (sparse.layer, sparse.device);
        let failed = |error| Failure::storage(layer, error);
        self.transfer.hand_on(storage)?;
        storage.settle().map_err(failed)?;
        if storage.length_bytes(device) < sparse.end_bytes {
            storage.resize(device, sparse.end_bytes).map_err(failed)?;
        }
        let changed = core::mem::take(&mut sparse.changed);
        sparse.forget_window();
        for (index, bytes) in changed.iter().filter(|(index, _)| self.new_tables.contains(index)) {
            self.write_table(storage, sparse, *index, bytes)?;
        }
        storage.flush(device).map_err(failed)?;
        if changed.is_empty() {
            return Ok(());
        }
        for (index, bytes) in changed.iter().filter(|(index, _)| !self.new_tables.contains(index)) {
            self.write_table(storage, sparse, *index, bytes)?;
        }
        for index in core::mem::take(&mut self.new_tables) {
            for (directory, offset) in self.directories(sparse) {
                let bytes = directory[to_index(index)].to_le_bytes();
                storage.write(device, offset + index * 4, &bytes).map_err(failed)?;
            }
        }
        storage.flush(device).map_err(failed)
    }

    /// Writes a table to every place where it has to be the same.
    fn write_table(&self, storage: &mut dyn Storage, sparse: &Sparse, index: u64, bytes: &[u8]) -> Result<()> {
        for (directory, _) in self.directories(sparse) {
            let offset = u64::from(directory[to_index(index)]) * SECTOR_BYTES;
            if offset != 0 {
                storage.write(sparse.device, offset, bytes).map_err(|error| Failure::storage(sparse.layer, error))?;
            }
        }
        Ok(())
    }

    /// The grain directories, and where each of them lies.
    fn directories<'a>(&'a self, sparse: &'a Sparse) -> impl Iterator<Item = (&'a [u32], u64)> {
        let redundant = self.redundant.as_deref().zip(sparse.header.redundant_offset);
        redundant.into_iter().chain([(sparse.directory.as_slice(), sparse.header.directory_offset)])
    }
}

/// The pieces, with what is `Absent` in them replaced by what the image and its chain show there now.
fn current_view(
    storage: &mut dyn Storage,
    sparse: &mut Sparse,
    start: u64,
    below: &mut Below<'_>,
    pieces: &[Extent],
) -> Result<Vec<Extent>> {
    let mut view = Vec::new();
    for piece in pieces {
        if piece.source != Source::Absent {
            extent::push(&mut view, *piece);
            continue;
        }
        let mut own = Vec::new();
        sparse.map(storage, start, piece.guest_offset - start, piece.end() - start, &mut own)?;
        for found in own {
            if found.source != Source::Absent {
                extent::push(&mut view, found);
                continue;
            }
            if let Some(refusal) = below.refusal {
                return Err(refusal.clone());
            }
            for found in map_chain(below.layers, storage, found.guest_offset, found.end())? {
                extent::push(&mut view, found);
            }
        }
    }
    Ok(view)
}

/// Takes room behind everything else in the file.
fn append(sparse: &mut Sparse, alignment_bytes: u64, length_bytes: u64) -> Result<u64> {
    let too_large = || too_large(sparse.layer);
    let offset = sparse.end_bytes.checked_next_multiple_of(alignment_bytes).ok_or_else(too_large)?;
    // The largest sector that an entry can name.
    if offset / SECTOR_BYTES > u64::from(u32::MAX) {
        return Err(too_large());
    }
    sparse.end_bytes = offset + length_bytes;
    Ok(offset)
}

fn append_table(sparse: &mut Sparse) -> Result<u32> {
    let room_bytes = sparse.geometry().table_room_bytes();
    let offset = append(sparse, SECTOR_BYTES, room_bytes)?;
    u32::try_from(offset / SECTOR_BYTES).map_err(|_| too_large(sparse.layer))
}

fn too_large(layer: u32) -> Failure {
    Failure { errno: EFBIG, ..Failure::new(error_kind::JOB, layer, "File too large") }
}
