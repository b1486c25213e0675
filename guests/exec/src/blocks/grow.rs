//! Makes the disk of an image larger. What the tables say about the new part so far means nothing, and is taken back
//! before the header tells of it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_plan::extent::{Extent, Source};

use super::Directory;
use super::target::BlocksTarget;
use crate::bytes::{read_vec, to_index};
use crate::layer::{Layer, Result};
use crate::storage::{DeviceId, Storage};
use crate::target::Target;

impl BlocksTarget {
    /// Makes the disk `size_bytes` long, which is more than it is; the format can do it.
    pub(super) fn enlarge(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        size_bytes: u64,
    ) -> Result<()> {
        let tables = self.blocks.dialect.tables_for(size_bytes).ok_or_else(|| self.blocks.shape.too_large())?;
        self.begin(storage)?;
        let old_bytes = self.blocks.shape.size_bytes;
        self.forget_entries(storage, tables)?;
        self.blocks.shape.size_bytes = size_bytes;
        // The end of the last block may hold anything, and what lies below may go on.
        let below_bytes = below.first().map_or(0, |layer| layer.size_bytes()).min(size_bytes);
        let block_end = old_bytes.next_multiple_of(self.blocks.shape.block_size_bytes).min(size_bytes);
        let hidden_end = if below_bytes > old_bytes || self.holds_bytes(storage, old_bytes, block_end)? {
            below_bytes.max(block_end)
        } else {
            old_bytes
        };
        let window_bytes = self.window_bytes();
        let mut start = old_bytes;
        while start < hidden_end {
            let end = (start / window_bytes * window_bytes).saturating_add(window_bytes).min(hidden_end);
            let zeros = Extent { guest_offset: start, length_bytes: end - start, source: Source::Zero };
            self.put(storage, below, &[zeros])?;
            if self.is_under_pressure() {
                self.make_visible(storage)?;
            }
            start = end;
        }
        self.make_visible(storage)?;
        let device = self.blocks.shape.device;
        self.blocks.dialect.set_size(storage, &self.blocks.shape)?;
        storage.flush(device).map_err(|error| self.blocks.shape.refused(error))
    }

    /// Whether a range within one block holds bytes of its own that are not zero.
    fn holds_bytes(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<bool> {
        let mut own = Vec::new();
        self.blocks.map(storage, start, end, &mut own)?;
        for piece in own {
            if let Source::Data { device, host_offset } = piece.source {
                let layer = self.blocks.shape.layer;
                let bytes = read_vec(storage, layer, DeviceId(device), host_offset, piece.length_bytes)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes back the entries behind the disk: in the last table, and for whole tables.
    fn forget_entries(&mut self, storage: &mut dyn Storage, tables: u64) -> Result<()> {
        let shape = &mut self.blocks.shape;
        let (blocks, form, device) = (shape.blocks(), shape.form, shape.device);
        let Directory::Tables { offset, table_entries, places } = &mut shape.directory else { return Ok(()) };
        let (first_table, table_entries) = (places.len() as u64, *table_entries);
        places.resize(to_index(tables), 0);
        if let Some(count) = tables.checked_sub(first_table).filter(|count| *count != 0) {
            let zeros = vec![0; to_index(count * form.bytes())];
            let written = storage.write(device, *offset + first_table * form.bytes(), &zeros);
            written.map_err(|error| shape.refused(error))?;
        }
        let end = blocks.next_multiple_of(table_entries);
        let mut next = blocks;
        while next < end {
            let (page, at) = (next / self.blocks.page_entries(), next % self.blocks.page_entries());
            let at = to_index(at * form.bytes());
            let holds_any =
                self.blocks.page(storage, page)?.is_some_and(|bytes| bytes[at..].iter().any(|byte| *byte != 0));
            if holds_any {
                self.blocks.page_mut(storage, page)?[at..].fill(0);
                self.mark_dirty();
            }
            next = (page + 1) * self.blocks.page_entries();
        }
        Ok(())
    }
}
