//! Moves the bytes of extents into a device: joins copies into lists, and compressed clusters into others; zeroes the rest.

use alloc::vec::Vec;

use instar_plan::extent::Source;

use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{CopySegment, DeviceId, Storage, UnpackSegment};
use crate::unpack;

/// How many segments are gathered before they are handed on.
const SEGMENTS_MAX: usize = 1024;
/// How many bytes are gathered that are yet to be unpacked.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

/// Gathers what has to get into one device.
pub struct Transfer {
    layer: u32,
    target: DeviceId,
    segments: Vec<CopySegment>,
    packed: Vec<UnpackSegment>,
    packed_bytes: u64,
    /// Start and length of what is to read as zeros.
    zeros: Vec<(u64, u64)>,
}

impl Transfer {
    /// For the device that holds the data of `layer`.
    #[must_use]
    pub fn new(layer: u32, target: DeviceId) -> Self {
        Self { layer, target, segments: Vec::new(), packed: Vec::new(), packed_bytes: 0, zeros: Vec::new() }
    }

    /// Takes `length_bytes` of `source` to `target_offset`. Complete only after [`Transfer::hand_on`] and a settle.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    ///
    /// # Panics
    /// If `source` is `Absent`: whoever plans resolves that first.
    pub fn push(
        &mut self,
        storage: &mut dyn Storage,
        target_offset: u64,
        length_bytes: u64,
        source: Source,
    ) -> Result<()> {
        match source {
            Source::Absent => unreachable!("absent extents are resolved before they are moved"),
            Source::Zero => {
                self.zeros.push((target_offset, length_bytes));
                if self.zeros.len() >= SEGMENTS_MAX { self.hand_on(storage) } else { Ok(()) }
            }
            Source::Data { device, host_offset } => {
                self.push_copy(CopySegment {
                    target_offset,
                    source: DeviceId(device),
                    source_offset: host_offset,
                    length_bytes,
                });
                if self.segments.len() >= SEGMENTS_MAX { self.hand_on(storage) } else { Ok(()) }
            }
            Source::Compressed(source) => {
                self.push_packed(UnpackSegment { target_offset, length_bytes, source });
                let is_full = self.packed.len() >= SEGMENTS_MAX || self.packed_bytes >= UNPACKED_BYTES_MAX;
                if is_full { self.unpack(storage) } else { Ok(()) }
            }
        }
    }

    /// Hands what was gathered to the storage: first what may turn out to be damaged.
    ///
    /// # Errors
    /// If the device refuses, or a compressed cluster does not unpack.
    pub fn hand_on(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.unpack(storage)?;
        if !self.segments.is_empty() {
            storage.copy(self.target, &self.segments).map_err(|error| Failure::storage(self.layer, error))?;
            self.segments.clear();
        }
        for (offset, length_bytes) in self.zeros.drain(..) {
            let zeroed = storage.write_zeroes(self.target, offset, length_bytes, true);
            zeroed.map_err(|error| Failure::storage(self.layer, error))?;
        }
        Ok(())
    }

    fn unpack(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.packed_bytes = 0;
        let segments = core::mem::take(&mut self.packed);
        if segments.is_empty() {
            return Ok(());
        }
        let done = storage.unpack(self.target, &segments).map_err(|error| Failure::storage(self.layer, error))?;
        if done { Ok(()) } else { unpack::segments(storage, self.layer, self.target, &segments) }
    }

    fn push_copy(&mut self, segment: CopySegment) {
        if let Some(last) = self.segments.last_mut()
            && last.source == segment.source
            && last.target_offset + last.length_bytes == segment.target_offset
            && last.source_offset.checked_add(last.length_bytes) == Some(segment.source_offset)
        {
            last.length_bytes += segment.length_bytes;
        } else {
            self.segments.push(segment);
        }
    }

    fn push_packed(&mut self, segment: UnpackSegment) {
        self.packed_bytes += segment.length_bytes;
        if let Some(last) = self.packed.last_mut()
            && last.target_offset + last.length_bytes == segment.target_offset
            && Source::Compressed(last.source).advanced(last.length_bytes) == Source::Compressed(segment.source)
        {
            last.length_bytes += segment.length_bytes;
        } else {
            self.packed.push(segment);
        }
    }
}
