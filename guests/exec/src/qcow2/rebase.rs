//! What a rebase needs of the overlay besides putting extents: what it holds itself, and a header with another backing file.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::{Access, Header};
use instar_plan::rebase::{HeaderWrite, plan_header_writes};

use super::image::read_first_cluster;
use super::target::Qcow2Target;
use crate::bytes::to_index;
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
        let change = HeaderChange::plan(storage, self.image.layer, self.image.device, |_| Ok(header.clone()))?;
        change.write(storage)?;
        self.image.header = header;
        Ok(())
    }
}

/// A change of the header: what it will say, and how its cluster gets there.
pub(crate) struct HeaderChange {
    layer: u32,
    device: DeviceId,
    writes: Vec<HeaderWrite>,
}

impl HeaderChange {
    /// Plans the change of the header to what `wanted` makes of it. Nothing is written.
    ///
    /// # Errors
    /// If the header is invalid or marks the image as corrupt; if the new one does not fit, or a table lies in its cluster,
    /// which would be overwritten.
    pub(crate) fn plan(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        wanted: impl FnOnce(&Header) -> Result<Header>,
    ) -> Result<Self> {
        let (old, mut current) = read_first_cluster(storage, layer, device, Access::ReadWrite)?;
        let new = wanted(&old)?;
        let size = new.cluster_size_bytes();
        let in_the_way = new.refcount_table_offset < size
            || (new.l1_entries != 0 && new.l1_offset < size)
            || (new.snapshot_count != 0 && new.snapshots_offset < size)
            || new.extensions.bitmaps.is_some_and(|bitmaps| bitmaps.directory_offset < size)
            || new.extensions.crypto_header.is_some_and(|pointer| pointer.offset < size);
        if in_the_way {
            return Err(Failure::new(error_kind::CORRUPT, layer, "a table lies in the header's cluster"));
        }
        current.resize(to_index(size), 0);
        let writes =
            plan_header_writes(&current, &old, &new).map_err(|error| Failure::new(error_kind::JOB, layer, error))?;
        Ok(Self { layer, device, writes })
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// If the device refuses.
    pub(crate) fn write(&self, storage: &mut dyn Storage) -> Result<()> {
        let failed = |error| Failure::storage(self.layer, error);
        for write in &self.writes {
            storage.write(self.device, write.offset, &write.bytes).map_err(failed)?;
            storage.flush(self.device).map_err(failed)?;
        }
        Ok(())
    }
}
