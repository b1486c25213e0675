//! vhdx images: read as the end of a chain, written as the base of a commit.
//!
//! An image whose log is not empty is refused. What is written here does not need the log: an entry of the block table
//! lies in one sector, and it is written only after what it leads to is durable.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vhdx::{
    ALIGNMENT_BYTES, BlockEntry, ENTRY_BYTES, HEAD_BYTES, HEAD_OFFSETS, Head, METADATA_BYTES_MAX, Metadata,
    REGION_OFFSETS, REGION_TABLE_BYTES, Region, Regions, SIGNATURE, VhdxError, current,
};
use instar_plan::commit::Block;

use crate::blocks::{Blocks, Dialect, Directory, EntryForm, Shape};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// What headers, region table and metadata say.
pub(crate) struct Description {
    /// Sizes.
    pub(crate) metadata: Metadata,
    regions: Regions,
    head: Head,
    head_number: usize,
}

/// Reads everything but the block table.
///
/// # Errors
/// If something is invalid, or the log is not empty.
pub(crate) fn describe(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Description> {
    let failed = |error: VhdxError| Failure::new(error_kind::OPEN, layer, error);
    if read_vec(storage, layer, device, 0, SIGNATURE.len() as u64)? != SIGNATURE {
        return Err(failed(VhdxError::NotVhdx));
    }
    let mut heads = [None, None];
    for (head, offset) in heads.iter_mut().zip(HEAD_OFFSETS) {
        *head = Head::parse(&read_vec(storage, layer, device, offset, HEAD_BYTES as u64)?);
    }
    let (head, head_number) = current(heads).map_err(failed)?;
    let mut regions = None;
    for offset in REGION_OFFSETS {
        if regions.is_none() {
            let bytes = read_vec(storage, layer, device, offset, REGION_TABLE_BYTES as u64)?;
            regions = Regions::parse(&bytes, &head);
        }
    }
    let regions = regions.ok_or(VhdxError::NoRegions).and_then(|regions| regions).map_err(failed)?;
    let Region { offset, length_bytes } = regions.metadata;
    let bytes = read_vec(storage, layer, device, offset, length_bytes.min(METADATA_BYTES_MAX))?;
    let metadata = Metadata::parse(&bytes).map_err(failed)?;
    if metadata.table_entries() * ENTRY_BYTES > regions.block_table.length_bytes {
        return Err(failed(VhdxError::TableTooSmall));
    }
    Ok(Description { metadata, regions, head, head_number })
}

/// Opens the image on `device`.
///
/// # Errors
/// As [`describe`]; if the block table lies beyond the end of the file.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Blocks> {
    let Description { metadata, regions, head, head_number } = describe(storage, layer, device)?;
    let run_entries = metadata.blocks_per_chunk();
    let Region { offset, length_bytes } = regions.block_table;
    let log = head.log_offset..head.log_offset.saturating_add(head.log_bytes.into());
    let meta = regions.metadata.offset..regions.metadata.offset + regions.metadata.length_bytes;
    let shape = Shape {
        layer,
        device,
        size_bytes: metadata.disk_size_bytes,
        block_size_bytes: metadata.block_size_bytes,
        form: EntryForm::Little64,
        // Behind the entries of each chunk there is one for the bitmap of its sectors.
        directory: Directory::Flat { offset, run_entries, stride_bytes: (run_entries + 1) * ENTRY_BYTES, length_bytes },
        prefix_bytes: 0,
        alignment_bytes: ALIGNMENT_BYTES,
        end_bytes: storage.length_bytes(device),
        areas: Vec::from([0..ALIGNMENT_BYTES, log, meta]),
    };
    Blocks::open(storage, shape, Box::new(Vhdx { head, head_number }))
}

/// What only vhdx images do.
struct Vhdx {
    head: Head,
    head_number: usize,
}

impl Dialect for Vhdx {
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str> {
        match BlockEntry::decode(raw) {
            BlockEntry::Absent => Ok(Block::Unallocated),
            BlockEntry::Present(offset) if i64::try_from(offset).is_err() => Err("lies beyond the end of the file"),
            BlockEntry::Present(offset) if offset >= ALIGNMENT_BYTES => Ok(Block::Data(offset)),
            BlockEntry::Present(_) => Err("lies on the header"),
            BlockEntry::Partial => Err("names a parent that the image does not have"),
        }
    }

    fn encode(&self, offset: u64) -> Option<u64> {
        Some(BlockEntry::present(offset))
    }

    /// Whoever changes the file or its data tells so in both headers, one after the other.
    fn begin(&mut self, storage: &mut dyn Storage, shape: &Shape) -> Result<()> {
        let renewed = self.head.renewed();
        let repeated = renewed.repeated();
        for (head, number) in [(&renewed, 1 - self.head_number), (&repeated, self.head_number)] {
            storage.write(shape.device, HEAD_OFFSETS[number], head.as_bytes()).map_err(|error| shape.refused(error))?;
            storage.flush(shape.device).map_err(|error| shape.refused(error))?;
        }
        self.head = repeated;
        Ok(())
    }
}
