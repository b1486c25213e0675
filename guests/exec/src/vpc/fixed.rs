//! A fixed disk: the bytes of the file as far as the disk goes. The footer behind them stays.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_plan::extent::{self, Extent, Source};

use crate::blocks::cannot_grow;
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;
use crate::transfer::Transfer;

/// How much is handed over at once.
const WINDOW_BYTES: u64 = 1 << 30;
/// What counts as a cluster of an image that has none.
const CLUSTER_BYTES: u64 = 64 << 10;

/// A fixed disk.
pub(super) struct Fixed {
    layer: u32,
    device: DeviceId,
    size_bytes: u64,
    transfer: Transfer,
}

impl Fixed {
    /// The disk of `size_bytes` that the file begins with.
    pub(super) fn new(layer: u32, device: DeviceId, size_bytes: u64) -> Self {
        Self { layer, device, size_bytes, transfer: Transfer::new(layer, device) }
    }
}

impl Layer for Fixed {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn map(&mut self, _: &mut dyn Storage, start: u64, end: u64, extents: &mut Vec<Extent>) -> Result<()> {
        let source = Source::Data { device: self.device.0, host_offset: start };
        extent::push(extents, Extent { guest_offset: start, length_bytes: end - start, source });
        Ok(())
    }

    fn next_mapped(&self, from: u64) -> u64 {
        from
    }

    fn cluster_size_bytes(&self) -> u64 {
        CLUSTER_BYTES
    }
}

impl Target for Fixed {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn grow(&mut self, _: &mut dyn Storage, _: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()> {
        if size_bytes > self.size_bytes { Err(cannot_grow(self.layer)) } else { Ok(()) }
    }

    fn window_bytes(&self) -> u64 {
        WINDOW_BYTES
    }

    fn put(&mut self, storage: &mut dyn Storage, _: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()> {
        for source in sources.iter().filter(|extent| extent.source != Source::Absent) {
            self.transfer.push(storage, source.guest_offset, source.length_bytes, source.source)?;
        }
        self.transfer.hand_on(storage)
    }

    fn is_under_pressure(&self) -> bool {
        false
    }

    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.transfer.hand_on(storage)?;
        storage.flush(self.device).map_err(|error| Failure::storage(self.layer, error))
    }
}
