//! Raw images: the file's bytes are the guest's bytes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_plan::extent::{self, Extent, Source};

use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;
use crate::transfer::Transfer;

/// Length of the unit in which sizes of raw images are counted, as everywhere in qemu-img.
const SECTOR_BYTES: u64 = 512;
/// How much is handed over at once: few enough extents for the sandbox's memory, even if each is 512 bytes long.
const WINDOW_BYTES: u64 = 32 << 20;

/// A raw image.
pub struct Raw {
    layer: u32,
    device: DeviceId,
    size_bytes: u64,
}

impl Raw {
    /// Opens the image on `device`. Its virtual size is the file's length, rounded up to a sector.
    #[must_use]
    pub fn open(storage: &dyn Storage, layer: u32, device: DeviceId) -> Self {
        Self { layer, device, size_bytes: storage.length_bytes(device).next_multiple_of(SECTOR_BYTES) }
    }
}

impl Layer for Raw {
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
        SECTOR_BYTES
    }
}

/// A raw image that is written.
pub struct RawTarget {
    image: Raw,
    transfer: Transfer,
}

impl RawTarget {
    /// Writes to `image`.
    #[must_use]
    pub fn new(image: Raw) -> Self {
        let transfer = Transfer::new(image.layer, image.device);
        Self { image, transfer }
    }
}

impl Target for RawTarget {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes
    }

    fn grow(&mut self, storage: &mut dyn Storage, _: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()> {
        // The virtual size counts sectors: a file that lacks part of its last one is long enough for it.
        if size_bytes > self.image.size_bytes {
            storage.resize(self.image.device, size_bytes).map_err(|error| Failure::storage(self.image.layer, error))?;
            self.image.size_bytes = size_bytes;
        }
        Ok(())
    }

    fn window_bytes(&self) -> u64 {
        WINDOW_BYTES
    }

    fn put(&mut self, storage: &mut dyn Storage, _: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()> {
        // The last sector of a file of odd length is the guest's, but only as far as the file goes.
        let length_bytes = storage.length_bytes(self.image.device);
        let odd = !length_bytes.is_multiple_of(SECTOR_BYTES);
        for source in sources.iter().filter(|extent| extent.source != Source::Absent) {
            let kept = if odd { source.clipped(0, length_bytes) } else { Some(*source) };
            if let Some(kept) = kept {
                self.transfer.push(storage, kept.guest_offset, kept.length_bytes, kept.source)?;
            }
        }
        self.transfer.hand_on(storage)
    }

    fn is_under_pressure(&self) -> bool {
        false
    }

    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.transfer.hand_on(storage)?;
        storage.flush(self.image.device).map_err(|error| Failure::storage(self.image.layer, error))
    }
}
