//! Devices in memory: for tests, fuzzing and the replay of recordings without a sandbox.

use alloc::vec;
use alloc::vec::Vec;

use crate::storage::{CopySegment, DeviceId, Operation, Storage, StorageError};

/// Devices whose bytes lie in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    /// The bytes of each device.
    pub devices: Vec<Vec<u8>>,
}

/// The longest a device may become.
const LENGTH_BYTES_MAX: u64 = 1 << 30;
/// "No space left on device".
const ENOSPC: i32 = 28;
/// "No such device or address".
const ENXIO: i32 = 6;

impl MemoryStorage {
    fn device(&mut self, device: DeviceId, operation: Operation, offset: u64) -> Result<&mut Vec<u8>, StorageError> {
        let error = StorageError { device, operation, offset, errno: ENXIO };
        usize::try_from(device.0).ok().and_then(|index| self.devices.get_mut(index)).ok_or(error)
    }

    /// The bytes of a range, after growing the device to its end.
    fn range(
        &mut self,
        device: DeviceId,
        operation: Operation,
        offset: u64,
        length_bytes: u64,
    ) -> Result<&mut [u8], StorageError> {
        let full = StorageError { device, operation, offset, errno: ENOSPC };
        let end = offset.checked_add(length_bytes).filter(|end| *end <= LENGTH_BYTES_MAX).ok_or(full)?;
        let bytes = self.device(device, operation, offset)?;
        let (start, end) = (usize::try_from(offset).map_err(|_| full)?, usize::try_from(end).map_err(|_| full)?);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(&mut bytes[start..end])
    }
}

impl Storage for MemoryStorage {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        usize::try_from(device.0).ok().and_then(|index| self.devices.get(index)).map_or(0, |bytes| bytes.len() as u64)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let bytes = self.device(device, Operation::Read, offset)?;
        let inside = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let length = inside.len().min(buffer.len());
        buffer[..length].copy_from_slice(&inside[..length]);
        buffer[length..].fill(0);
        Ok(())
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.range(device, Operation::Write, offset, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }

    fn write_zeroes(&mut self, device: DeviceId, offset: u64, length_bytes: u64, _: bool) -> Result<(), StorageError> {
        self.range(device, Operation::WriteZeroes, offset, length_bytes)?.fill(0);
        Ok(())
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        let end = offset.saturating_add(length_bytes).min(self.length_bytes(device));
        if offset < end {
            // What is discarded reads as anything; a pattern shows who reads it all the same.
            self.range(device, Operation::Discard, offset, end - offset)?.fill(0xdb);
        }
        Ok(())
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            let mut bytes = vec![0; usize::try_from(segment.length_bytes).unwrap_or(0)];
            self.read(segment.source, segment.source_offset, &mut bytes)?;
            self.range(target, Operation::Copy, segment.target_offset, segment.length_bytes)?.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        let error = StorageError { device, operation: Operation::Resize, offset: length_bytes, errno: ENOSPC };
        let length = usize::try_from(length_bytes).ok().filter(|_| length_bytes <= LENGTH_BYTES_MAX).ok_or(error)?;
        self.device(device, Operation::Resize, length_bytes)?.resize(length, 0);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&mut self, _: DeviceId) -> Result<(), StorageError> {
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}
