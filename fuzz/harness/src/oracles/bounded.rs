//! Devices in memory that are full early, so that no input can take a machine's memory away.

use instar_exec::memory::MemoryStorage;
use instar_exec::{CopySegment, DeviceId, Operation, Storage, StorageError};

/// The longest a device may become in bytes.
const LENGTH_BYTES_MAX: u64 = 24 << 20;
/// "No space left on device".
const ENOSPC: i32 = 28;

/// As [`MemoryStorage`], with short devices.
#[derive(Clone, Debug)]
pub struct Bounded(pub MemoryStorage);

fn fits(device: DeviceId, operation: Operation, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
    match offset.checked_add(length_bytes) {
        Some(end) if end <= LENGTH_BYTES_MAX => Ok(()),
        _ => Err(StorageError { device, operation, offset, errno: ENOSPC }),
    }
}

impl Storage for Bounded {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.0.length_bytes(device)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.0.read(device, offset, buffer)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        fits(device, Operation::Write, offset, bytes.len() as u64)?;
        self.0.write(device, offset, bytes)
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        fits(device, Operation::WriteZeroes, offset, length_bytes)?;
        self.0.write_zeroes(device, offset, length_bytes, may_unmap)
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.0.discard(device, offset, length_bytes)
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            fits(target, Operation::Copy, segment.target_offset, segment.length_bytes)?;
        }
        self.0.copy(target, segments)
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        fits(device, Operation::Resize, 0, length_bytes)?;
        self.0.resize(device, length_bytes)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.0.settle()
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.0.flush(device)
    }

    fn progress(&mut self, _: u64, _: u64) {}
}
