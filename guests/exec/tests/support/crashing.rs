//! Devices that crash: for tests of what is left on the disk.

use instar_exec::memory::MemoryStorage;
use instar_exec::recording::{Recording, after_a_crash};
use instar_exec::{CopySegment, DeviceId, Operation, Storage, StorageError};

/// Devices that fail at one request; what was not flushed by then has reached the disk or not, by chance.
pub(crate) struct Crashing {
    now: Recording<MemoryStorage>,
    before: MemoryStorage,
    /// Requests that were carried out.
    pub(crate) requests: u64,
    crash_at: u64,
    seed: u64,
}

impl Crashing {
    /// Fails at request number `crash_at`, counted from 0; `seed` decides what of the rest is lost.
    pub(crate) fn new(storage: MemoryStorage, crash_at: u64, seed: u64) -> Self {
        Self { before: storage.clone(), now: Recording::new(storage), requests: 0, crash_at, seed }
    }

    /// What is on the disk then.
    pub(crate) fn after_the_crash(self) -> MemoryStorage {
        let mut state = self.seed | 1;
        let mut keeps = |_, _| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 1 == 0
        };
        after_a_crash(self.before, &self.now.requests, &mut keeps).unwrap()
    }

    fn step(&mut self, device: DeviceId, operation: Operation) -> Result<(), StorageError> {
        if self.requests >= self.crash_at {
            return Err(StorageError { device, operation, offset: 0, errno: 5 });
        }
        self.requests += 1;
        Ok(())
    }
}

impl Storage for Crashing {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.now.length_bytes(device)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.now.read(device, offset, buffer)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.step(device, Operation::Write)?;
        self.now.write(device, offset, bytes)
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        self.step(device, Operation::WriteZeroes)?;
        self.now.write_zeroes(device, offset, length_bytes, may_unmap)
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.step(device, Operation::Discard)?;
        self.now.discard(device, offset, length_bytes)
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        self.step(target, Operation::Copy)?;
        self.now.copy(target, segments)
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.step(device, Operation::Resize)?;
        self.now.resize(device, length_bytes)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.step(device, Operation::Flush)?;
        self.now.flush(device)
    }

    fn progress(&mut self, _: u64, _: u64) {}
}
