//! A growing disk. A new block takes the place of the footer, which moves behind it; until it has, its copy at the start
//! of the file tells what the disk is.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_formats::vpc::{
    ENTRY_BYTES, FOOTER_BYTES, Footer, SECTOR_BYTES, SPARSE_HEADER_BYTES, SparseHeader, UNALLOCATED,
};
use instar_plan::commit::Block;

use super::last_footer;
use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::storage::{DeviceId, Storage};

/// Entries of the block table that are read and written together.
const RUN_ENTRIES: u64 = 1024;

/// Opens a growing disk.
pub(super) fn open(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    footer: &Footer,
    sparse: &SparseHeader,
) -> Result<Blocks> {
    let file_length_bytes = storage.length_bytes(device);
    let end_bytes = match last_footer(storage, layer, device)? {
        Some(_) => file_length_bytes - FOOTER_BYTES as u64,
        None => file_length_bytes,
    };
    let header_end = footer.header_offset.saturating_add(SPARSE_HEADER_BYTES as u64);
    let shape = Shape {
        layer,
        device,
        size_bytes: footer.size_bytes,
        block_size_bytes: sparse.block_size_bytes,
        form: EntryForm::Big32,
        directory: Directory::Flat {
            offset: sparse.table_offset,
            run_entries: RUN_ENTRIES,
            stride_bytes: RUN_ENTRIES * ENTRY_BYTES,
            length_bytes: u64::from(sparse.blocks) * ENTRY_BYTES,
        },
        prefix_bytes: sparse.bitmap_bytes(),
        alignment_bytes: SECTOR_BYTES,
        end_bytes,
        areas: Vec::from([0..FOOTER_BYTES as u64, footer.header_offset..header_end]),
    };
    let copy = read_vec(storage, layer, device, 0, FOOTER_BYTES as u64)?;
    Blocks::open(storage, shape, Box::new(Growing { bitmap_bytes: sparse.bitmap_bytes(), footer: copy }))
}

/// What only growing disks do.
struct Growing {
    bitmap_bytes: u64,
    footer: Vec<u8>,
}

impl Dialect for Growing {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        Ok(if raw == u64::from(UNALLOCATED) {
            Block::Unallocated
        } else {
            Block::Data(raw * SECTOR_BYTES + self.bitmap_bytes)
        })
    }

    fn encode(&self, offset: u64) -> Option<u64> {
        let sector = offset.checked_sub(self.bitmap_bytes)? / SECTOR_BYTES;
        (sector < u64::from(UNALLOCATED)).then_some(sector)
    }

    /// All sectors of a block that is written count as written.
    fn touch(&mut self, storage: &mut dyn Storage, shape: &Shape, offset: u64) -> Result<()> {
        let bitmap = vec![0xff; to_index(self.bitmap_bytes)];
        storage.write(shape.device, offset - self.bitmap_bytes, &bitmap).map_err(|error| shape.refused(error))
    }

    fn occupy(&mut self, storage: &mut dyn Storage, shape: &Shape) -> Result<()> {
        storage.write(shape.device, shape.end_bytes, &self.footer).map_err(|error| shape.refused(error))
    }
}
