//! qcow images of version 1: read as a layer, written as the base of a commit, emptied as its overlay.

mod empty;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;

use instar_abi::report::error_kind;
use instar_formats::qcow::{Entry, Geometry, HEADER_BYTES, Header};
use instar_plan::commit::Block;

pub use empty::QcowEmptier;

use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Reads the header.
///
/// # Errors
/// In qemu-img's words if it is invalid.
pub(crate) fn read_header(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Header> {
    let bytes = read_vec(storage, layer, device, 0, HEADER_BYTES as u64)?;
    Header::parse(&bytes).map_err(|error| Failure::new(error_kind::OPEN, layer, error))
}

/// The backing name as recorded.
///
/// # Errors
/// If the device refuses.
pub(crate) fn backing_name(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    header: &Header,
) -> Result<Option<Vec<u8>>> {
    let Some((offset, length_bytes)) = header.backing_name else { return Ok(None) };
    let mut name = read_vec(storage, layer, device, offset, length_bytes.into())?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Ok(Some(name))
}

/// Opens the image on `device`.
///
/// # Errors
/// If header or tables are invalid; if it is encrypted.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Blocks> {
    let header = read_header(storage, layer, device)?;
    if header.is_encrypted {
        let text = "Parameter 'encrypt.key-secret' is required for cipher";
        return Err(Failure::new(error_kind::OPEN, layer, text));
    }
    let geometry = header.geometry;
    let table_entries = geometry.table_entries();
    let name = header.backing_name.map(|(offset, length_bytes)| offset..offset.saturating_add(length_bytes.into()));
    let mut shape = Shape {
        layer,
        device,
        size_bytes: header.size_bytes,
        block_size_bytes: geometry.cluster_size_bytes(),
        form: EntryForm::Big64,
        directory: Directory::Tables { offset: header.l1_offset, table_entries, places: Vec::new() },
        prefix_bytes: 0,
        alignment_bytes: geometry.cluster_size_bytes(),
        end_bytes: storage.length_bytes(device),
        areas: iter::once(0..HEADER_BYTES as u64).chain(name).collect(),
    };
    let places = Blocks::read_places(storage, &shape, header.l1_offset, geometry.l1_entries(header.size_bytes))?;
    shape.directory = Directory::Tables { offset: header.l1_offset, table_entries, places };
    Blocks::open(storage, shape, Box::new(Qcow { geometry }))
}

/// What only qcow images do.
struct Qcow {
    geometry: Geometry,
}

impl Dialect for Qcow {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        Ok(match Entry::decode(&self.geometry, raw) {
            Entry::Unallocated => Block::Unallocated,
            Entry::Data(offset) => Block::Data(offset),
            Entry::Compressed { offset, length_bytes } => Block::Packed { offset, length_bytes },
        })
    }

    fn encode(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }
}
