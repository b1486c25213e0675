//! qed images: read as a layer, written as the base of a commit or the overlay of a rebase, and the only ones of their
//! kind that can grow.
//!
//! The header's "needs a check" bit is left as it is: an image that has it is read like any other, and written only if
//! the look at all its tables finds nothing wrong. In the order in which things are written here it need not be set.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qed::{
    AUTOCLEAR_OFFSET, Geometry, HEADER_BYTES, Header, IMAGE_SIZE_OFFSET, TABLES_MAX, ZERO_CLUSTER,
};
use instar_plan::commit::Block;

use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Reads the header.
///
/// # Errors
/// If it is invalid.
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
    let bytes = read_vec(storage, layer, device, offset, length_bytes.into())?;
    Ok(Some(Header::name(&bytes)))
}

/// Opens the image on `device`.
///
/// # Errors
/// If header or tables are invalid.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Blocks> {
    let header = read_header(storage, layer, device)?;
    let geometry = header.geometry;
    let table_entries = geometry.table_entries();
    let count = geometry.tables_for(header.image_size_bytes);
    let l1_end = header.l1_offset.saturating_add(geometry.table_bytes);
    let mut shape = Shape {
        layer,
        device,
        size_bytes: header.image_size_bytes,
        block_size_bytes: geometry.cluster_size_bytes,
        form: EntryForm::Little64,
        directory: Directory::Tables { offset: header.l1_offset, table_entries, places: Vec::new() },
        prefix_bytes: 0,
        alignment_bytes: geometry.cluster_size_bytes,
        end_bytes: storage.length_bytes(device),
        areas: Vec::from([0..geometry.header_bytes, header.l1_offset + count * EntryForm::Little64.bytes()..l1_end]),
    };
    let places = Blocks::read_places(storage, &shape, header.l1_offset, count)?;
    if let Some(place) = places.iter().find(|place| !place.is_multiple_of(geometry.cluster_size_bytes)) {
        return Err(shape.corrupt(format_args!("L2 table offset {place:#x} unaligned")));
    }
    shape.directory = Directory::Tables { offset: header.l1_offset, table_entries, places };
    Blocks::open(storage, shape, Box::new(Qed { geometry, has_autoclear: header.autoclear_features != 0 }))
}

/// What only qed images do.
struct Qed {
    geometry: Geometry,
    has_autoclear: bool,
}

impl Dialect for Qed {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        match raw {
            0 => Ok(Block::Unallocated),
            ZERO_CLUSTER => Ok(Block::Zero),
            offset if offset.is_multiple_of(self.geometry.cluster_size_bytes) => Ok(Block::Data(offset)),
            _ => Err("is not aligned to a cluster"),
        }
    }

    fn encode(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }

    fn zero_entry(&self) -> Option<u64> {
        Some(ZERO_CLUSTER)
    }

    fn begin(&mut self, storage: &mut dyn Storage, shape: &Shape) -> Result<()> {
        if core::mem::take(&mut self.has_autoclear) {
            storage.write(shape.device, AUTOCLEAR_OFFSET, &[0; 8]).map_err(|error| shape.refused(error))?;
            storage.flush(shape.device).map_err(|error| shape.refused(error))?;
        }
        Ok(())
    }

    fn tables_for(&self, size_bytes: u64) -> Option<u64> {
        let tables = self.geometry.tables_for(size_bytes);
        (self.geometry.holds(size_bytes) && tables <= TABLES_MAX).then_some(tables)
    }

    fn can_grow(&self) -> bool {
        true
    }

    fn set_size(&mut self, storage: &mut dyn Storage, shape: &Shape) -> Result<()> {
        let written = storage.write(shape.device, IMAGE_SIZE_OFFSET, &shape.size_bytes.to_le_bytes());
        written.map_err(|error| shape.refused(error))
    }
}
