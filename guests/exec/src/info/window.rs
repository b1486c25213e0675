//! A stretch of a device held in memory, for tables that are read from front to back.

use alloc::vec;
use alloc::vec::Vec;

use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// How much is read at once, in bytes, unless more is needed.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of one device that were read last.
pub(super) struct Window<'a> {
    storage: &'a mut dyn Storage,
    device: DeviceId,
    offset: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(storage: &'a mut dyn Storage, device: DeviceId) -> Self {
        Self { storage, device, offset: 0, bytes: Vec::new() }
    }

    /// Bytes from `offset`, at least `needed` of them; zeros behind the end of the file.
    pub(super) fn at(&mut self, offset: u64, needed: usize) -> Result<&[u8], Failure> {
        let is_held = |skip: &usize| self.bytes.len().checked_sub(*skip).is_some_and(|held| held >= needed.max(1));
        let skip = offset.checked_sub(self.offset).and_then(|skip| usize::try_from(skip).ok()).filter(is_held);
        let skip = match skip {
            Some(skip) => skip,
            None => {
                self.bytes = vec![0; CHUNK_BYTES.max(needed)];
                self.offset = offset;
                self.storage.read(self.device, offset, &mut self.bytes).map_err(|error| Failure::storage(0, error))?;
                0
            }
        };
        Ok(&self.bytes[skip..])
    }
}
