//! What a rebase needs of the overlay besides putting extents: what it holds itself, and a header with another backing file.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::{Access, Header};
use instar_plan::rebase::{HeaderWrite, plan_header_writes};

use super::image::read_header;
use super::target::Qcow2Target;
use crate::bytes::read_vec;
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

impl Qcow2Target {
    /// The header as it was read.
    pub(crate) fn header(&self) -> &Header {
        &self.image.header
    }

    /// The image as a layer that is read, with everything that was put.
    pub(crate) fn layer(&mut self) -> &mut dyn Layer {
        &mut self.image
    }

    /// Replaces the header, whose tables are still the image's own. Everything put must be visible already.
    ///
    /// # Errors
    /// If the device refuses.
    pub(crate) fn replace_header(&mut self, storage: &mut dyn Storage, mut header: Header) -> Result<()> {
        // The refcount table may have moved since the header was read.
        let (offset, clusters) = self.refcounts.table_clusters();
        header.refcount_table_offset = offset;
        header.refcount_table_clusters = u32::try_from(clusters)
            .map_err(|_| Failure::new(error_kind::JOB, self.image.layer, "the refcount table is too large"))?;
        write_header(storage, self.image.layer, self.image.device, &header)?;
        self.image.header = header;
        Ok(())
    }
}

/// Reads the header of the image that is to be changed, and nothing else of it.
///
/// # Errors
/// If it is invalid, or marks the image as corrupt.
pub(crate) fn read_own_header(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Header> {
    read_header(storage, layer, device, Access::ReadWrite)
}

/// How the first cluster of an image becomes one with this header.
///
/// # Errors
/// If it does not fit, or a table lies in the first cluster, which would be overwritten.
pub(crate) fn header_writes(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    header: &Header,
) -> Result<Vec<HeaderWrite>> {
    let size = header.cluster_size_bytes();
    let in_the_way = header.refcount_table_offset < size
        || (header.l1_entries != 0 && header.l1_offset < size)
        || (header.snapshot_count != 0 && header.snapshots_offset < size)
        || header.extensions.bitmaps.is_some_and(|bitmaps| bitmaps.directory_offset < size)
        || header.extensions.crypto_header.is_some_and(|pointer| pointer.offset < size);
    if in_the_way {
        return Err(Failure::new(error_kind::CORRUPT, layer, "a table lies in the header's cluster"));
    }
    let old = read_header(storage, layer, device, Access::ReadWrite)?;
    let current = read_vec(storage, layer, device, 0, size)?;
    plan_header_writes(&current, &old, header).map_err(|error| Failure::new(error_kind::JOB, layer, error))
}

/// Makes the header this one, durably.
///
/// # Errors
/// As [`header_writes`], and if the device refuses.
pub(crate) fn write_header(storage: &mut dyn Storage, layer: u32, device: DeviceId, header: &Header) -> Result<()> {
    for write in header_writes(storage, layer, device, header)? {
        storage.write(device, write.offset, &write.bytes).map_err(|error| Failure::storage(layer, error))?;
        storage.flush(device).map_err(|error| Failure::storage(layer, error))?;
    }
    Ok(())
}
