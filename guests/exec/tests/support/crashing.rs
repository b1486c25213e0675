//! Devices that crash: for tests of what is left on the disk.

use instar_exec::memory::MemoryStorage;
use instar_exec::{CopySegment, DeviceId, Operation, Storage, StorageError};

/// A change that is not durable yet.
#[derive(Clone)]
enum Change {
    Bytes { device: DeviceId, offset: u64, bytes: Vec<u8> },
    Zeroes { device: DeviceId, offset: u64, length_bytes: u64 },
    Length { device: DeviceId, length_bytes: u64 },
}

/// Devices that fail at one request; what was not flushed by then has reached the disk or not, by chance.
pub(crate) struct Crashing {
    now: MemoryStorage,
    durable: MemoryStorage,
    changes: Vec<Change>,
    /// Requests that were carried out.
    pub(crate) requests: u64,
    crash_at: u64,
    seed: u64,
}

impl Crashing {
    /// Fails at request number `crash_at`, counted from 0; `seed` decides what of the rest is lost.
    pub(crate) fn new(storage: MemoryStorage, crash_at: u64, seed: u64) -> Self {
        Self { durable: storage.clone(), now: storage, changes: Vec::new(), requests: 0, crash_at, seed }
    }

    /// What is on the disk then.
    pub(crate) fn after_the_crash(mut self) -> MemoryStorage {
        let mut state = self.seed | 1;
        for change in self.changes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 {
                apply(&mut self.durable, change);
            }
        }
        self.durable
    }

    fn step(&mut self, device: DeviceId, operation: Operation) -> Result<(), StorageError> {
        if self.requests >= self.crash_at {
            return Err(StorageError { device, operation, offset: 0, errno: 5 });
        }
        self.requests += 1;
        Ok(())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.now, change.clone());
        self.changes.push(change);
    }
}

fn apply(storage: &mut MemoryStorage, change: Change) {
    match change {
        Change::Bytes { device, offset, bytes } => storage.write(device, offset, &bytes).unwrap(),
        Change::Zeroes { device, offset, length_bytes } => {
            storage.write_zeroes(device, offset, length_bytes, true).unwrap()
        }
        Change::Length { device, length_bytes } => storage.resize(device, length_bytes).unwrap(),
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
        // The medium is atomic in sectors, no more.
        for (index, sector) in bytes.chunks(512).enumerate() {
            self.change(Change::Bytes { device, offset: offset + index as u64 * 512, bytes: sector.to_vec() });
        }
        Ok(())
    }

    fn write_zeroes(&mut self, device: DeviceId, offset: u64, length_bytes: u64, _: bool) -> Result<(), StorageError> {
        self.step(device, Operation::WriteZeroes)?;
        self.change(Change::Zeroes { device, offset, length_bytes });
        Ok(())
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.step(device, Operation::Discard)?;
        let end = offset.saturating_add(length_bytes).min(self.length_bytes(device));
        if offset < end {
            self.change(Change::Zeroes { device, offset, length_bytes: end - offset });
        }
        Ok(())
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            let mut bytes = vec![0; usize::try_from(segment.length_bytes).unwrap()];
            self.now.read(segment.source, segment.source_offset, &mut bytes)?;
            self.write(target, segment.target_offset, &bytes)?;
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.step(device, Operation::Resize)?;
        self.change(Change::Length { device, length_bytes });
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.step(device, Operation::Flush)?;
        let index = device.0 as usize;
        self.durable.devices[index] = self.now.devices[index].clone();
        self.changes.retain(|change| match change {
            Change::Bytes { device: changed, .. }
            | Change::Zeroes { device: changed, .. }
            | Change::Length { device: changed, .. } => *changed != device,
        });
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}
