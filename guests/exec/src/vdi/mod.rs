//! vdi images: read as the end of a chain, written as the base of a commit.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;

use instar_abi::report::error_kind;
use instar_formats::vdi::{
    BLOCK_BYTES, BLOCKS_ALLOCATED_OFFSET, DISCARDED, ENTRY_BYTES, HEADER_BYTES, Header, UNALLOCATED,
};
use instar_plan::commit::Block;

use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Entries of the block map that are read and written together.
const RUN_ENTRIES: u64 = 1024;

/// Reads the header.
///
/// # Errors
/// In qemu-img's words if it is invalid.
pub(crate) fn read_header(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Header> {
    let bytes = read_vec(storage, layer, device, 0, HEADER_BYTES as u64)?;
    Header::parse(&bytes).map_err(|error| Failure::new(error_kind::OPEN, layer, error))
}

/// Opens the image on `device`.
///
/// # Errors
/// If header or block map are invalid.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Blocks> {
    let header = read_header(storage, layer, device)?;
    let map_bytes = u64::from(header.blocks) * ENTRY_BYTES;
    let map_end = header.map_offset + map_bytes;
    let mut areas: Vec<_> = iter::once(0..HEADER_BYTES as u64).collect();
    if map_end < header.data_offset {
        areas.push(map_end..header.data_offset);
    }
    let shape = Shape {
        layer,
        device,
        size_bytes: header.disk_size_bytes,
        block_size_bytes: BLOCK_BYTES,
        form: EntryForm::Little32,
        directory: Directory::Flat {
            offset: header.map_offset,
            run_entries: RUN_ENTRIES,
            stride_bytes: RUN_ENTRIES * ENTRY_BYTES,
            length_bytes: map_bytes,
        },
        prefix_bytes: 0,
        // Blocks are counted from the first one, and the count in the header may be too high after a crash: the next
        // block follows the last one that the map names.
        alignment_bytes: 1,
        end_bytes: header.data_offset,
        areas,
    };
    Blocks::open(storage, shape, Box::new(Vdi { data_offset: header.data_offset }))
}

/// What only vdi images do.
struct Vdi {
    data_offset: u64,
}

impl Dialect for Vdi {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        Ok(match u32::try_from(raw) {
            Ok(UNALLOCATED) | Err(_) => Block::Unallocated,
            Ok(DISCARDED) => Block::Zero,
            Ok(number) => Block::Data(self.data_offset + u64::from(number) * BLOCK_BYTES),
        })
    }

    fn encode(&self, offset: u64) -> Option<u64> {
        let distance = offset.checked_sub(self.data_offset).filter(|distance| distance.is_multiple_of(BLOCK_BYTES))?;
        Some(distance / BLOCK_BYTES).filter(|number| *number < u64::from(DISCARDED))
    }

    fn occupy(&mut self, storage: &mut dyn Storage, shape: &Shape) -> Result<()> {
        let blocks = (shape.end_bytes - self.data_offset) / BLOCK_BYTES;
        let count = u32::try_from(blocks).unwrap_or(u32::MAX).to_le_bytes();
        storage.write(shape.device, BLOCKS_ALLOCATED_OFFSET, &count).map_err(|error| shape.refused(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_numbers_are_no_blocks() {
        let dialect = Vdi { data_offset: BLOCK_BYTES };
        let place = |number: u64| BLOCK_BYTES + number * BLOCK_BYTES;
        assert_eq!(dialect.encode(place(0xffff_fffd)), Some(0xffff_fffd));
        assert_eq!(dialect.encode(place(0xffff_fffe)), None);
        assert_eq!(dialect.encode(place(1) + 1), None);
        assert_eq!(dialect.encode(0), None);
        assert_eq!(dialect.decode(0xffff_fffd), Ok(Block::Data(place(0xffff_fffd))));
        assert_eq!(dialect.decode(0xffff_fffe), Ok(Block::Zero));
        assert_eq!(dialect.decode(0xffff_ffff), Ok(Block::Unallocated));
    }
}
