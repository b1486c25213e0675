//! Moves the bytes of extents into a device: joins copies into lists, unpacks compressed clusters, zeroes the rest.

use alloc::vec::Vec;

use instar_plan::extent::{CompressedSource, Source};

use crate::bytes::to_index;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{CopySegment, DeviceId, Storage};
use crate::unpack;

/// How many segments are gathered before they are handed on.
const SEGMENTS_MAX: usize = 1024;

/// Gathers what has to get into one device.
pub struct Transfer {
    layer: u32,
    target: DeviceId,
    segments: Vec<CopySegment>,
    unpacked: Option<(u32, u64, Vec<u8>)>,
}

impl Transfer {
    /// For the device that holds the data of `layer`.
    #[must_use]
    pub fn new(layer: u32, target: DeviceId) -> Self {
        Self { layer, target, segments: Vec::new(), unpacked: None }
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
            Source::Zero => storage
                .write_zeroes(self.target, target_offset, length_bytes, true)
                .map_err(|error| Failure::storage(self.layer, error)),
            Source::Data { device, host_offset } => {
                self.push_copy(CopySegment {
                    target_offset,
                    source: DeviceId(device),
                    source_offset: host_offset,
                    length_bytes,
                });
                if self.segments.len() >= SEGMENTS_MAX { self.hand_on(storage) } else { Ok(()) }
            }
            Source::Compressed(source) => self.push_compressed(storage, target_offset, length_bytes, &source),
        }
    }

    /// Hands what was gathered to the storage.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn hand_on(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if !self.segments.is_empty() {
            storage.copy(self.target, &self.segments).map_err(|error| Failure::storage(self.layer, error))?;
            self.segments.clear();
        }
        Ok(())
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

    fn push_compressed(
        &mut self,
        storage: &mut dyn Storage,
        target_offset: u64,
        length_bytes: u64,
        source: &CompressedSource,
    ) -> Result<()> {
        let known = matches!(&self.unpacked, Some((device, offset, _)) if (*device, *offset) == (source.device, source.host_offset));
        if !known {
            self.unpacked = Some((source.device, source.host_offset, unpack::cluster(storage, self.layer, source)?));
        }
        let Some((_, _, bytes)) = &self.unpacked else { return Ok(()) };
        let (start, length) = (to_index(source.offset_in_cluster), to_index(length_bytes));
        storage
            .write(self.target, target_offset, &bytes[start..start + length])
            .map_err(|error| Failure::storage(self.layer, error))
    }
}
