//! All devices of a job as one [`Storage`].

use alloc::vec::Vec;

use instar_exec::{
    Codec, CompareSegment, CopySegment, DeviceId, Operation, Storage, StorageError, UnpackSegment, Verdict,
};

use super::Transport;
use super::device::Device;

/// Storage over virtio block devices. A device is attached to when it is first used.
#[derive(Debug)]
pub struct VirtioStorage<T> {
    transport: T,
    devices: Vec<Option<Device>>,
}

impl<T: Transport> VirtioStorage<T> {
    /// Storage whose devices are numbered from 0 to `device_count - 1`.
    pub fn new(transport: T, device_count: u32) -> Self {
        Self { transport, devices: (0..device_count).map(|_| None).collect() }
    }

    #[cfg(test)]
    pub(super) fn transport(&self) -> &T {
        &self.transport
    }

    #[cfg(test)]
    pub(super) fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    fn parts(&mut self, device: DeviceId, operation: Operation) -> Result<(&mut Device, &mut T), StorageError> {
        let transport = &mut self.transport;
        // ENODEV.
        let unknown = StorageError { device, operation, offset: 0, errno: 19 };
        let place = usize::try_from(device.0).ok().and_then(|number| self.devices.get_mut(number)).ok_or(unknown)?;
        let device = match place {
            Some(device) => device,
            None => place.insert(Device::new(transport, device.0)),
        };
        Ok((device, transport))
    }

    fn settle_all(&mut self) -> Result<(), StorageError> {
        let mut result = Ok(());
        for device in self.devices.iter_mut().flatten() {
            let settled = device.settle(&mut self.transport);
            // The first error counts, but nothing stays behind.
            result = result.and(settled);
        }
        result
    }
}

impl<T: Transport> Storage for VirtioStorage<T> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        match usize::try_from(device.0).ok().and_then(|number| self.devices.get(number)) {
            Some(Some(device)) => device.length_bytes(),
            Some(None) => self.transport.device_state(device.0).length_bytes,
            None => 0,
        }
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Read)?;
        device.read(transport, offset, buffer)
    }

    fn read_many(&mut self, device: DeviceId, ranges: &mut [(u64, &mut [u8])]) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Read)?;
        device.read_many(transport, ranges)
    }

    fn compare(
        &mut self,
        device: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Compare)?;
        device.compare(transport, segments, verdicts)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Write)?;
        device.write(transport, offset, bytes)
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::WriteZeroes)?;
        device.range(transport, Operation::WriteZeroes, offset, length_bytes, may_unmap)
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Discard)?;
        device.range(transport, Operation::Discard, offset, length_bytes, false)
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        let (device, transport) = self.parts(target, Operation::Copy)?;
        device.copy(transport, segments)
    }

    fn unpack(&mut self, target: DeviceId, segments: &[UnpackSegment]) -> Result<bool, StorageError> {
        let (device, transport) = self.parts(target, Operation::Copy)?;
        device.unpack(transport, segments)
    }

    fn pack(
        &mut self,
        device: DeviceId,
        codec: Codec,
        cluster_bytes: usize,
        clusters: &[u8],
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, StorageError> {
        let (device, transport) = self.parts(device, Operation::Write)?;
        device.pack(transport, codec, cluster_bytes, clusters)
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        let (device, transport) = self.parts(device, Operation::Resize)?;
        device.resize(transport, length_bytes)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.settle_all()
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        let (own, transport) = self.parts(device, Operation::Flush)?;
        let flushed = own.flush(transport);
        flushed.and(self.settle_all())
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.transport.progress(done_bytes, total_bytes);
    }
}
