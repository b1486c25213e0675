//! parallels images: read as the end of a chain. As the base of a commit they are refused, as qemu-img refuses them.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::parallels::{ENTRY_BYTES, HEADER_BYTES, Header};
use instar_plan::commit::Block;

use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Entries of the catalogue that are read together.
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
/// If header or catalogue are invalid.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Blocks> {
    let header = read_header(storage, layer, device)?;
    let shape = Shape {
        layer,
        device,
        size_bytes: header.size_bytes,
        block_size_bytes: header.cluster_size_bytes,
        form: EntryForm::Little32,
        directory: Directory::Flat {
            offset: HEADER_BYTES as u64,
            run_entries: RUN_ENTRIES,
            stride_bytes: RUN_ENTRIES * ENTRY_BYTES,
            length_bytes: header.catalog_bytes(),
        },
        prefix_bytes: 0,
        alignment_bytes: header.cluster_size_bytes,
        end_bytes: storage.length_bytes(device),
        areas: Vec::new(),
    };
    Blocks::open(storage, shape, Box::new(Parallels { unit_bytes: header.entry_unit_bytes }))
}

/// Refuses to write an image.
pub(crate) fn cannot_be_written(layer: u32) -> Failure {
    let text =
        format_args!("Block format 'parallels' used by node '#block{layer:03}' does not support reopening files");
    Failure::new(error_kind::REFUSED, layer, text)
}

/// What only parallels images do.
struct Parallels {
    unit_bytes: u64,
}

impl Dialect for Parallels {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        // 2^32 clusters of less than 2^31 bytes are below 2^63.
        if raw == 0 { Ok(Block::Unallocated) } else { Ok(Block::Data(raw * self.unit_bytes)) }
    }

    fn encode(&self, _: u64) -> Option<u64> {
        None
    }
}
