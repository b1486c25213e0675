//! What the executor needs of the world: devices with byte offsets, batches, and a barrier.

use alloc::vec::Vec;
use core::fmt;

use instar_plan::extent::{Codec, CompressedSource};

/// Number of a device in the job's device table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// Marks the number under which a device's encrypted data is seen as plain bytes.
    const PLAIN: u32 = 1 << 31;

    /// The same device, as what its encrypted data stands for. Only `crypt::Unlocked` knows such numbers.
    pub(crate) fn plain(self) -> Self {
        Self(self.0 | Self::PLAIN)
    }

    /// Whether encrypted data is seen as plain bytes.
    pub(crate) fn is_plain(self) -> bool {
        self.0 & Self::PLAIN != 0
    }

    /// The device itself, as it is in the job's device table.
    pub(crate) fn file(self) -> Self {
        Self(self.0 & !Self::PLAIN)
    }
}

/// What was being done when a device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading bytes into the sandbox.
    Read,
    /// Writing bytes from the sandbox.
    Write,
    /// Comparing bytes of two devices.
    Compare,
    /// Copying bytes from device to device.
    Copy,
    /// Making a range read as zeros.
    WriteZeroes,
    /// Giving a range's space back.
    Discard,
    /// Changing the length.
    Resize,
    /// Making everything durable.
    Flush,
}

/// A request that a device refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageError {
    /// The device.
    pub device: DeviceId,
    /// What was asked of it.
    pub operation: Operation,
    /// Where, in bytes.
    pub offset: u64,
    /// The host system's error number; 5 (EIO) where there is no better one.
    pub errno: i32,
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at byte {} of device {} failed (error {})",
            self.operation, self.offset, self.device.0, self.errno
        )
    }
}

impl core::error::Error for StorageError {}

/// One piece of a copy between two devices (which may be the same one; the two ranges never overlap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySegment {
    /// Where the bytes go.
    pub target_offset: u64,
    /// Where they come from.
    pub source: DeviceId,
    /// At which byte.
    pub source_offset: u64,
    /// How many. What lies beyond the end of the source reads as zeros.
    pub length_bytes: u64,
}

/// One piece of a compressed cluster that is unpacked to another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackSegment {
    /// Where the bytes go.
    pub target_offset: u64,
    /// How many; not zero, and not more than the cluster has from the source's place on.
    pub length_bytes: u64,
    /// Which cluster, and from which byte of it on.
    pub source: CompressedSource,
}

/// One piece of a comparison between two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareSegment {
    /// At which byte of the device that is asked.
    pub offset: u64,
    /// What it is compared with; `None` for zeros.
    pub other: Option<DeviceId>,
    /// At which byte.
    pub other_offset: u64,
    /// How many. What lies beyond the end of a device reads as zeros.
    pub length_bytes: u64,
    /// Length of the units that get a verdict each; not zero. The segment's last one may be shorter.
    pub unit_bytes: u32,
}

/// What a comparison has shown of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are the same.
    Equal,
    /// The bytes differ, and those of the device that was asked are not all zero.
    Differs,
    /// The bytes differ, and those of the device that was asked are all zero.
    DiffersFromZeros,
}

/// How much of a comparison is read at once where the devices cannot compare by themselves.
const COMPARE_BUFFER_BYTES: u64 = 64 << 10;

/// Devices that hold images.
///
/// Everything but `read`, `length_bytes` and `resize` may be queued and carried out later, in any order and in parallel,
/// until `settle` or `flush` returns; a caller therefore never queues two requests that touch the same bytes. A queued
/// request's error is returned by the call that completes it. `read` settles first, so it sees everything queued before.
pub trait Storage {
    /// Current length of the device in bytes; need not be a multiple of 512.
    fn length_bytes(&self, device: DeviceId) -> u64;

    /// Fills `buffer` from `offset`; what lies beyond the end of the device reads as zeros.
    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError>;

    /// As [`Storage::read`] for several ranges at once, each given as its offset and the buffer it goes into.
    fn read_many(&mut self, device: DeviceId, ranges: &mut [(u64, &mut [u8])]) -> Result<(), StorageError> {
        ranges.iter_mut().try_for_each(|(offset, buffer)| self.read(device, *offset, buffer))
    }

    /// Appends to `verdicts`, for each unit of each segment, what was found there. Settles `device` first; what is queued for
    /// other devices may be seen or not.
    fn compare(
        &mut self,
        device: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        compare_by_reading(self, device, segments, verdicts)
    }

    /// Writes `bytes` at `offset`; the device grows as needed.
    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes a range read as zeros; the device grows as needed. `may_unmap` allows giving the space back.
    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError>;

    /// Gives the space of a range back; nothing reads it any more. The length does not change.
    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError>;

    /// Copies bytes to `target`; the device grows as needed.
    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError>;

    /// Unpacks compressed clusters to `target`, where the devices can have that done; the device grows as needed. `false` where
    /// it was not done, or not to the end: the caller does it then, and learns what is wrong. Settles `target` first, and has
    /// nothing queued afterwards.
    fn unpack(&mut self, _target: DeviceId, _segments: &[UnpackSegment]) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Packs clusters of `cluster_bytes` each, to be written to `device`, where that can have it done; `None` where it was not done: the
    /// caller does it then. In the result `None` stands for a cluster that would not be shorter. Settles `device` first.
    fn pack(
        &mut self,
        _device: DeviceId,
        _codec: Codec,
        _cluster_bytes: usize,
        _clusters: &[u8],
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, StorageError> {
        Ok(None)
    }

    /// Sets the length; new bytes read as zeros. Settles first.
    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError>;

    /// Completes everything queued, on all devices, without making it durable.
    fn settle(&mut self) -> Result<(), StorageError>;

    /// Completes everything queued and makes what `device` holds durable.
    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError>;

    /// Says how far the job is; both in bytes.
    fn progress(&mut self, done_bytes: u64, total_bytes: u64);
}

/// [`Storage::compare`] for devices that cannot compare by themselves.
pub(crate) fn compare_by_reading<S: Storage + ?Sized>(
    storage: &mut S,
    device: DeviceId,
    segments: &[CompareSegment],
    verdicts: &mut Vec<Verdict>,
) -> Result<(), StorageError> {
    let mut buffers = [Vec::new(), Vec::new()];
    for segment in segments {
        let mut start = 0;
        while start < segment.length_bytes {
            let end = start.saturating_add(segment.unit_bytes.into()).min(segment.length_bytes);
            let (mut differs, mut is_zero) = (false, true);
            let mut at = start;
            while at < end && (is_zero || !differs) {
                let count = (end - at).min(COMPARE_BUFFER_BYTES);
                let sides = [Some((device, segment.offset)), segment.other.map(|other| (other, segment.other_offset))];
                for (buffer, side) in buffers.iter_mut().zip(sides) {
                    buffer.clear();
                    buffer.resize(usize::try_from(count).unwrap_or(0), 0);
                    if let Some((side, offset)) = side {
                        storage.read(side, offset + at, buffer)?;
                    }
                }
                differs |= buffers[0] != buffers[1];
                is_zero &= buffers[0].iter().all(|byte| *byte == 0);
                at += count;
            }
            verdicts.push(match (differs, is_zero) {
                (false, _) => Verdict::Equal,
                (true, false) => Verdict::Differs,
                (true, true) => Verdict::DiffersFromZeros,
            });
            start = end;
        }
    }
    Ok(())
}
