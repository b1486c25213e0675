//! An image of tables and blocks that receives extents: carries out what the planner says, and keeps the order of writes.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::commit::{BlockStep, BlockTarget, Place, plan_commit_blocks};
use instar_plan::extent::{self, Extent, Source};

use super::image::Blocks;
use super::{Directory, cannot_grow, census};
use crate::bytes::to_index;
use crate::layer::{Layer, Result, map_chain};
use crate::report::Failure;
use crate::storage::Storage;
use crate::target::Target;
use crate::transfer::Transfer;

/// Bytes of tables that may wait for [`Target::make_visible`].
const UNWRITTEN_BYTES_MAX: usize = 8 << 20;
/// The most blocks that are planned at once.
const WINDOW_BLOCKS_MAX: u64 = 8192;
/// The most bytes that are handed over at once, and the longest block.
const WINDOW_BYTES_MAX: u64 = 1 << 30;

/// An image that is written.
pub struct BlocksTarget {
    pub(super) blocks: Blocks,
    transfer: Transfer,
    has_backing: bool,
    /// Behind this offset the file holds nothing but zeros, as long as nothing was put there.
    clean_from: u64,
    /// Lower tables that the file's upper table does not name yet.
    new_tables: BTreeSet<usize>,
    has_begun: bool,
    is_dirty: bool,
    /// Whether the file ends somewhere else since the last barrier.
    is_longer: bool,
}

impl BlocksTarget {
    /// Prepares an image for writing. Nothing is written.
    ///
    /// # Errors
    /// If its metadata contradicts itself, or its blocks are of a length that cannot be written.
    pub fn new(storage: &mut dyn Storage, mut blocks: Blocks, has_backing: bool) -> Result<Self> {
        let size = blocks.shape.block_size_bytes;
        if !size.is_power_of_two() || size > WINDOW_BYTES_MAX {
            let text = format_args!("images with clusters of {size} bytes cannot be written");
            return Err(Failure::new(error_kind::UNSUPPORTED, blocks.shape.layer, text));
        }
        let last_end = census::check(storage, &mut blocks)?;
        blocks.shape.end_bytes = blocks.shape.end_bytes.max(last_end);
        let transfer = Transfer::new(blocks.shape.layer, blocks.shape.device);
        let clean_from = storage.length_bytes(blocks.shape.device);
        Ok(Self {
            blocks,
            transfer,
            has_backing,
            clean_from,
            new_tables: BTreeSet::new(),
            has_begun: false,
            is_dirty: false,
            is_longer: false,
        })
    }

    /// The image as a layer that is read, with everything that was put.
    pub(crate) fn layer(&mut self) -> &mut dyn Layer {
        &mut self.blocks
    }

    /// Before the first write of all.
    pub(super) fn begin(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if core::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        self.blocks.dialect.begin(storage, &self.blocks.shape)
    }

    /// Pages were changed by someone else.
    pub(super) fn mark_dirty(&mut self) {
        self.is_dirty = true;
    }

    fn carry_out(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], step: &BlockStep) -> Result<()> {
        match step {
            BlockStep::Zero { block } => {
                let entry = self.blocks.dialect.zero_entry().ok_or_else(|| self.blocks.shape.too_large())?;
                self.set_entry(storage, *block, entry)
            }
            BlockStep::Write { place: Place::Existing(host_offset), block, pieces } => {
                self.blocks.dialect.touch(storage, &self.blocks.shape, *host_offset)?;
                self.write(storage, *block, *host_offset, pieces)
            }
            BlockStep::Write { place: Place::New, block, pieces } => {
                let mut view = Vec::new();
                for piece in pieces {
                    self.resolve(storage, below, piece, &mut view)?;
                }
                let size = self.blocks.shape.block_size_bytes;
                let prefix_bytes = self.blocks.shape.prefix_bytes;
                let host_offset = self.append(prefix_bytes + size)? + prefix_bytes;
                let entry = self.blocks.dialect.encode(host_offset).ok_or_else(|| self.blocks.shape.too_large())?;
                self.blocks.dialect.touch(storage, &self.blocks.shape, host_offset)?;
                let clean_from = self.clean_from;
                let start = block * size;
                view.retain(|piece| {
                    piece.source != Source::Zero || host_offset + (piece.guest_offset - start) < clean_from
                });
                self.write(storage, *block, host_offset, &view)?;
                self.set_entry(storage, *block, entry)
            }
        }
    }

    fn write(&mut self, storage: &mut dyn Storage, block: u64, host_offset: u64, pieces: &[Extent]) -> Result<()> {
        let start = block * self.blocks.shape.block_size_bytes;
        for piece in pieces {
            let offset = host_offset + (piece.guest_offset - start);
            self.transfer.push(storage, offset, piece.length_bytes, piece.source)?;
        }
        Ok(())
    }

    /// The piece, with `Absent` replaced by what the image and its chain show there now.
    fn resolve(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        piece: &Extent,
        view: &mut Vec<Extent>,
    ) -> Result<()> {
        if piece.source != Source::Absent {
            extent::push(view, *piece);
            return Ok(());
        }
        let mut own = Vec::new();
        self.blocks.map(storage, piece.guest_offset, piece.end(), &mut own)?;
        for found in own {
            if found.source == Source::Absent {
                for found in map_chain(below, storage, found.guest_offset, found.end())? {
                    extent::push(view, found);
                }
            } else {
                extent::push(view, found);
            }
        }
        Ok(())
    }

    /// Takes room behind everything else in the file.
    fn append(&mut self, length_bytes: u64) -> Result<u64> {
        let shape = &mut self.blocks.shape;
        let start = shape.end_bytes.checked_next_multiple_of(shape.alignment_bytes);
        let end = start.and_then(|start| start.checked_add(length_bytes)).filter(|end| i64::try_from(*end).is_ok());
        let (Some(start), Some(end)) = (start, end) else { return Err(shape.too_large()) };
        shape.end_bytes = end;
        self.blocks.limit_bytes = self.blocks.limit_bytes.max(end);
        self.is_longer = true;
        Ok(start)
    }

    /// Changes the entry of a block, in a new table if there is none yet.
    pub(super) fn set_entry(&mut self, storage: &mut dyn Storage, block: u64, entry: u64) -> Result<()> {
        let page = block / self.blocks.page_entries();
        if self.blocks.page_offset(page).is_none()
            && let Directory::Tables { table_entries, .. } = self.blocks.shape.directory
        {
            let offset = self.append(table_entries * self.blocks.shape.form.bytes())?;
            let table = self.blocks.table_of(block);
            if let Directory::Tables { places, .. } = &mut self.blocks.shape.directory {
                places[table] = offset;
            }
            self.new_tables.insert(table);
        }
        self.is_dirty = true;
        let form = self.blocks.shape.form;
        let (at, length) = (to_index(block % self.blocks.page_entries() * form.bytes()), to_index(form.bytes()));
        form.put(entry, &mut self.blocks.page_mut(storage, page)?[at..at + length]);
        Ok(())
    }

    /// Writes the pages of one kind: of tables that are new, or of tables that are in use.
    fn write_pages(&self, storage: &mut dyn Storage, pages: &[(u64, Vec<u8>)], of_new_tables: bool) -> Result<()> {
        for (page, bytes) in pages {
            let table = self.blocks.table_of(page * self.blocks.page_entries());
            if self.new_tables.contains(&table) == of_new_tables
                && let Some(offset) = self.blocks.page_offset(*page)
            {
                let shape = &self.blocks.shape;
                storage.write(shape.device, offset, bytes).map_err(|error| shape.refused(error))?;
            }
        }
        Ok(())
    }
}

impl Target for BlocksTarget {
    fn size_bytes(&self) -> u64 {
        self.blocks.shape.size_bytes
    }

    fn grow(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()> {
        if size_bytes <= self.blocks.shape.size_bytes {
            return Ok(());
        }
        if !self.blocks.dialect.can_grow() {
            return Err(cannot_grow(self.blocks.shape.layer));
        }
        self.enlarge(storage, below, size_bytes)
    }

    fn window_bytes(&self) -> u64 {
        (self.blocks.shape.block_size_bytes * WINDOW_BLOCKS_MAX).min(WINDOW_BYTES_MAX)
    }

    fn put(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()> {
        let mut present = sources.iter().filter(|extent| extent.source != Source::Absent);
        let Some(first) = present.next() else { return Ok(()) };
        let end = present.next_back().unwrap_or(first).end();
        let shape = &self.blocks.shape;
        let size = shape.block_size_bytes;
        let target = BlockTarget {
            size_bytes: shape.size_bytes,
            block_size_bytes: size,
            has_backing: self.has_backing,
            has_zero_entries: self.blocks.dialect.zero_entry().is_some(),
        };
        if !first.guest_offset.is_multiple_of(size) || !end.is_multiple_of(size) {
            // Another part of the block may still be on its way from an earlier call.
            storage.settle().map_err(|error| shape.refused(error))?;
        }
        let first_block = first.guest_offset / size;
        let current = self.blocks.blocks(storage, first_block, end.div_ceil(size))?;
        let mut steps = Vec::new();
        plan_commit_blocks(&target, first_block, &current, sources, &mut steps);
        if steps.is_empty() {
            return Ok(());
        }
        self.begin(storage)?;
        self.is_dirty = true;
        for step in &steps {
            self.carry_out(storage, below, step)?;
        }
        self.transfer.hand_on(storage)
    }

    fn is_under_pressure(&self) -> bool {
        self.blocks.changed.values().map(Vec::len).sum::<usize>() > UNWRITTEN_BYTES_MAX
    }

    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if !core::mem::take(&mut self.is_dirty) {
            return Ok(());
        }
        self.transfer.hand_on(storage)?;
        let device = self.blocks.shape.device;
        storage.settle().map_err(|error| self.blocks.shape.refused(error))?;
        if core::mem::take(&mut self.is_longer) {
            if storage.length_bytes(device) < self.blocks.shape.end_bytes {
                let resized = storage.resize(device, self.blocks.shape.end_bytes);
                resized.map_err(|error| self.blocks.shape.refused(error))?;
            }
            self.blocks.dialect.occupy(storage, &self.blocks.shape)?;
        }
        let pages: Vec<(u64, Vec<u8>)> = self.blocks.take_changed().into_iter().collect();
        self.write_pages(storage, &pages, true)?;
        let refused = |error| Failure::storage(self.blocks.shape.layer, error);
        storage.flush(device).map_err(refused)?;
        if pages.is_empty() {
            return Ok(());
        }
        self.write_pages(storage, &pages, false)?;
        if let Directory::Tables { offset, places, .. } = &self.blocks.shape.directory {
            let form = self.blocks.shape.form;
            for table in core::mem::take(&mut self.new_tables) {
                let mut raw = alloc::vec![0; to_index(form.bytes())];
                form.put(places[table], &mut raw);
                storage.write(device, offset + table as u64 * form.bytes(), &raw).map_err(refused)?;
            }
        }
        storage.flush(device).map_err(refused)
    }
}
