//! Records every change that is asked of devices, so that the states that a crash can leave can be made from them.
//!
//! The medium is taken to be atomic in sectors and no more; what was not made durable may be there or not, sector by sector.

use alloc::vec;
use alloc::vec::Vec;

use crate::bytes::to_index;
use crate::storage::{CompareSegment, CopySegment, DeviceId, Storage, StorageError, Verdict};

/// What a medium writes as a whole, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// One thing that was asked of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes were written, or copied from another device.
    Write {
        /// Where.
        device: DeviceId,
        /// At which byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A range was made to read as zeros.
    Zero {
        /// Where.
        device: DeviceId,
        /// At which byte.
        offset: u64,
        /// How many bytes.
        length_bytes: u64,
    },
    /// The space of a range was given back.
    Discard {
        /// Where.
        device: DeviceId,
        /// At which byte.
        offset: u64,
        /// How many bytes.
        length_bytes: u64,
    },
    /// The length was set.
    Resize {
        /// Of which device.
        device: DeviceId,
        /// To how many bytes.
        length_bytes: u64,
    },
    /// Everything queued was completed.
    Settle,
    /// Everything queued was completed, and what one device holds made durable.
    Flush(DeviceId),
}

impl Request {
    /// The device that it changes; `None` for one that changes nothing.
    #[must_use]
    pub fn changes(&self) -> Option<DeviceId> {
        match self {
            Self::Write { device, .. }
            | Self::Zero { device, .. }
            | Self::Discard { device, .. }
            | Self::Resize { device, .. } => Some(*device),
            Self::Settle | Self::Flush(_) => None,
        }
    }

    /// The bytes that it touches: offset and length. A new length touches none.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, bytes, .. } => Some((*offset, bytes.len() as u64)),
            Self::Zero { offset, length_bytes, .. } | Self::Discard { offset, length_bytes, .. } => {
                Some((*offset, *length_bytes))
            }
            Self::Resize { .. } | Self::Settle | Self::Flush(_) => None,
        }
    }

    /// How many sectors it touches: what can be on the medium or not, each for itself.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        match self.range() {
            Some((_, 0)) => 0,
            Some((offset, length)) => (offset + length).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES,
            None => u64::from(matches!(self, Self::Resize { .. })),
        }
    }

    /// Does it once more on `storage`, but only the sectors that `keeps` names by their number, counted from 0.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn apply(&self, storage: &mut dyn Storage, keeps: &mut dyn FnMut(u64) -> bool) -> Result<(), StorageError> {
        if let Self::Resize { device, length_bytes } = self {
            return if keeps(0) { storage.resize(*device, *length_bytes) } else { Ok(()) };
        }
        let Some((offset, length)) = self.range() else { return Ok(()) };
        let (first, count) = (offset / SECTOR_BYTES, self.sectors());
        let mut sector = 0;
        while sector < count {
            let start = sector;
            while sector < count && keeps(sector) {
                sector += 1;
            }
            if start < sector {
                let from = ((first + start) * SECTOR_BYTES).max(offset);
                let to = ((first + sector) * SECTOR_BYTES).min(offset + length);
                self.apply_range(storage, from, to)?;
            }
            sector += u64::from(sector < count);
        }
        Ok(())
    }

    fn apply_range(&self, storage: &mut dyn Storage, from: u64, to: u64) -> Result<(), StorageError> {
        match self {
            Self::Write { device, offset, bytes } => {
                storage.write(*device, from, &bytes[to_index(from - offset)..to_index(to - offset)])
            }
            Self::Zero { device, .. } => storage.write_zeroes(*device, from, to - from, true),
            Self::Discard { device, .. } => storage.discard(*device, from, to - from),
            Self::Resize { .. } | Self::Settle | Self::Flush(_) => Ok(()),
        }
    }
}

/// Devices and everything that was asked of them, beginning with the first request.
#[derive(Clone, Debug)]
pub struct Recording<S> {
    /// The devices.
    pub storage: S,
    /// The requests in their order.
    pub requests: Vec<Request>,
}

impl<S: Storage> Recording<S> {
    /// Starts to record.
    pub fn new(storage: S) -> Self {
        Self { storage, requests: Vec::new() }
    }
}

impl<S: Storage> Storage for Recording<S> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.storage.length_bytes(device)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.requests.push(Request::Settle);
        self.storage.read(device, offset, buffer)
    }

    fn compare(
        &mut self,
        device: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        self.requests.push(Request::Settle);
        self.storage.compare(device, segments, verdicts)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.storage.write(device, offset, bytes)?;
        self.requests.push(Request::Write { device, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        self.storage.write_zeroes(device, offset, length_bytes, may_unmap)?;
        self.requests.push(Request::Zero { device, offset, length_bytes });
        Ok(())
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.storage.discard(device, offset, length_bytes)?;
        self.requests.push(Request::Discard { device, offset, length_bytes });
        Ok(())
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            let mut bytes = vec![0; to_index(segment.length_bytes)];
            self.storage.read(segment.source, segment.source_offset, &mut bytes)?;
            self.write(target, segment.target_offset, &bytes)?;
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.requests.push(Request::Settle);
        self.storage.resize(device, length_bytes)?;
        self.requests.push(Request::Resize { device, length_bytes });
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.storage.settle()?;
        self.requests.push(Request::Settle);
        Ok(())
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.storage.flush(device)?;
        self.requests.push(Request::Flush(device));
        Ok(())
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.storage.progress(done_bytes, total_bytes);
    }
}

/// What is on the disks if the power fails after `requests`: what was made durable, and of the rest what `keeps` names by the
/// number of the request and of its sector.
///
/// # Errors
/// If a device refuses what it did not refuse before.
pub fn after_a_crash<S: Storage>(
    mut before: S,
    requests: &[Request],
    keeps: &mut dyn FnMut(usize, u64) -> bool,
) -> Result<S, StorageError> {
    for (index, request) in requests.iter().enumerate() {
        let Some(device) = request.changes() else { continue };
        let is_durable = requests[index..].contains(&Request::Flush(device));
        request.apply(&mut before, &mut |sector| is_durable || keeps(index, sector))?;
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;

    const DEVICE: DeviceId = DeviceId(0);

    #[test]
    fn a_torn_write_keeps_whole_sectors() {
        let request = Request::Write { device: DEVICE, offset: 500, bytes: vec![1; 1000] };
        assert_eq!(request.sectors(), 3);
        let mut storage = MemoryStorage { devices: vec![vec![0; 2048]] };
        request.apply(&mut storage, &mut |sector| sector != 1).unwrap();
        let written: Vec<usize> = (0..2048).filter(|byte| storage.devices[0][*byte] == 1).collect();
        assert_eq!(written, (500..512).chain(1024..1500).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_flushed_survives_and_the_rest_may() {
        let mut recording = Recording::new(MemoryStorage { devices: vec![Vec::new(), Vec::new()] });
        recording.write(DEVICE, 0, &[1]).unwrap();
        recording.write(DeviceId(1), 0, &[2]).unwrap();
        recording.flush(DEVICE).unwrap();
        recording.write(DEVICE, 1, &[3]).unwrap();
        let nothing = MemoryStorage { devices: vec![Vec::new(), Vec::new()] };
        let lost = after_a_crash(nothing.clone(), &recording.requests, &mut |_, _| false).unwrap();
        assert_eq!(lost.devices, [vec![1], vec![]]);
        let kept = after_a_crash(nothing, &recording.requests, &mut |_, _| true).unwrap();
        assert_eq!(kept.devices, [vec![1, 3], vec![2]]);
    }
}
