//! Empties a vmdk overlay once its base holds everything it held: the grain tables forget their grains, and the files end
//! behind their tables.
//!
//! The order of the writes does not matter: each entry that is gone shows what the base shows there, which is the same.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::SECTOR_BYTES;

use super::image::{Body, Image};
use super::sparse::{Sparse, read_directory};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// How an overlay is going to be emptied.
pub struct VmdkEmptier {
    layer: u32,
    files: Vec<File>,
}

/// A sparse extent's file.
struct File {
    device: DeviceId,
    /// Byte offsets of all grain tables, the redundant ones among them.
    tables: Vec<u64>,
    table_bytes: u64,
    /// First byte behind everything but grains.
    end_bytes: u64,
}

impl VmdkEmptier {
    /// Prepares to empty `image`. Nothing is written.
    ///
    /// # Errors
    /// If an extent is not a plain sparse one: those have nothing that could be forgotten.
    pub fn new(storage: &mut dyn Storage, image: &Image) -> Result<Self> {
        let mut files: Vec<File> = Vec::new();
        for piece in &image.pieces {
            let Body::Sparse(sparse) = &piece.body else { return Err(refusal(image.layer)) };
            if sparse.header.compression.is_some() || sparse.header.is_footer {
                return Err(refusal(image.layer));
            }
            if files.iter().any(|file| file.device == sparse.device) {
                return Err(image_uses_a_file_twice(image.layer));
            }
            files.push(File::of(storage, sparse)?);
        }
        Ok(Self { layer: image.layer, files })
    }

    /// Empties the overlay. The base must be durable.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn empty(&self, storage: &mut dyn Storage) -> Result<()> {
        let failed = |error| Failure::storage(self.layer, error);
        for file in &self.files {
            for table in &file.tables {
                storage.write_zeroes(file.device, *table, file.table_bytes, false).map_err(failed)?;
            }
            storage.flush(file.device).map_err(failed)?;
            if file.end_bytes < storage.length_bytes(file.device) {
                storage.resize(file.device, file.end_bytes).map_err(failed)?;
                storage.flush(file.device).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl File {
    fn of(storage: &mut dyn Storage, sparse: &Sparse) -> Result<Self> {
        let (header, table_bytes) = (&sparse.header, sparse.geometry().table_bytes());
        let directory_bytes = sparse.geometry().directory_entries() * 4;
        let mut sectors = sparse.directory.clone();
        let mut end_bytes = header.metadata_end_bytes.max(header.directory_offset + directory_bytes);
        if let Some(offset) = header.redundant_offset {
            sectors.extend(read_directory(storage, sparse.layer, sparse.device, header, offset)?);
            end_bytes = end_bytes.max(offset + directory_bytes);
        }
        if let Some((offset, length_bytes)) = header.descriptor {
            end_bytes = end_bytes.max(offset.saturating_add(length_bytes));
        }
        let mut tables: Vec<u64> =
            sectors.iter().filter(|sector| **sector != 0).map(|sector| u64::from(*sector) * SECTOR_BYTES).collect();
        tables.sort_unstable();
        tables.dedup();
        end_bytes = tables.iter().map(|table| table + table_bytes).fold(end_bytes, u64::max);
        Ok(Self { device: sparse.device, tables, table_bytes, end_bytes })
    }
}

fn refusal(layer: u32) -> Failure {
    let text = "--empty: only vmdk images with plain sparse extents can be emptied";
    Failure::new(error_kind::REFUSED, layer, text)
}

fn image_uses_a_file_twice(layer: u32) -> Failure {
    Failure::new(error_kind::CORRUPT, layer, "two extents lie in one file")
}
