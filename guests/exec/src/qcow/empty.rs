//! Empties a qcow overlay once its base holds everything it held: nothing is left but the header and an empty L1 table.

use alloc::vec;

use super::read_header;
use crate::bytes::to_index;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// How an overlay is going to be emptied.
pub struct QcowEmptier {
    layer: u32,
    device: DeviceId,
    l1_offset: u64,
    l1_bytes: u64,
    /// Whether everything behind the L1 table may go.
    is_last: bool,
}

impl QcowEmptier {
    /// Prepares to empty the image on `device`. Nothing is written.
    ///
    /// # Errors
    /// If the header is invalid.
    pub fn new(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Self> {
        let header = read_header(storage, layer, device)?;
        let (l1_offset, l1_bytes) = (header.l1_offset, header.l1_bytes());
        let name_end = header.backing_name.map_or(0, |(offset, length)| offset.saturating_add(length.into()));
        Ok(Self { layer, device, l1_offset, l1_bytes, is_last: name_end <= l1_offset.saturating_add(l1_bytes) })
    }

    /// Empties the overlay. The base must be durable.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn empty(&self, storage: &mut dyn Storage) -> Result<()> {
        let failed = |error| Failure::storage(self.layer, error);
        storage.write(self.device, self.l1_offset, &vec![0; to_index(self.l1_bytes)]).map_err(failed)?;
        storage.flush(self.device).map_err(failed)?;
        if self.is_last {
            storage.resize(self.device, self.l1_offset + self.l1_bytes).map_err(failed)?;
            storage.flush(self.device).map_err(failed)?;
        }
        Ok(())
    }
}
