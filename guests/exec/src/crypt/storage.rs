//! Devices with encrypted data, shown as devices with plain data.
//!
//! Plain bytes exist in the sandbox's memory alone. Copies and comparisons in which such a device takes part cannot be left
//! to the host: they go through here, in pieces large enough that the requests for them cost little.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_plan::extent::Codec;

use super::cipher::{SECTOR, SectorCipher};
use crate::bytes::to_index;
use crate::storage::{
    CompareSegment, CopySegment, DeviceId, Operation, Storage, StorageError, UnpackSegment, Verdict, compare_by_reading,
};

/// How much is encrypted or decrypted at once.
const PIECE_BYTES: usize = 1 << 20;
/// "Required key not available".
const ENOKEY: i32 = 126;

/// How the data on a device is encrypted.
pub(super) struct View {
    /// Cipher and key.
    pub(super) cipher: SectorCipher,
    /// Where the data begins; sectors are counted from here.
    pub(super) start_bytes: u64,
}

/// Storage with the plain data of encrypted devices.
pub(crate) struct Unlocked<'a> {
    storage: &'a mut dyn Storage,
    views: BTreeMap<DeviceId, View>,
}

/// A part of a copy that fits into a piece.
struct Portion {
    target_offset: u64,
    source: DeviceId,
    source_offset: u64,
    range: Range<usize>,
}

impl<'a> Unlocked<'a> {
    /// Shows the plain data of every device in `views`.
    pub(super) fn new(storage: &'a mut dyn Storage, views: BTreeMap<DeviceId, View>) -> Self {
        Self { storage, views }
    }

    fn view(&self, device: DeviceId, operation: Operation, offset: u64) -> Result<&View, StorageError> {
        let missing = StorageError { device: device.file(), operation, offset, errno: ENOKEY };
        self.views.get(&device.file()).ok_or(missing)
    }

    /// Where a range of the plain data lies in its file.
    fn place(&self, device: DeviceId, operation: Operation, offset: u64, length: u64) -> Result<u64, StorageError> {
        let start_bytes = self.view(device, operation, offset)?.start_bytes;
        let end = start_bytes.checked_add(offset).and_then(|start| start.checked_add(length));
        // EFBIG.
        let too_far = StorageError { device: device.file(), operation, offset, errno: 27 };
        end.map(|end| end - length).ok_or(too_far)
    }

    fn read_plain(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let sectors = sectors_of(offset, buffer.len() as u64);
        if sectors != (offset..offset + buffer.len() as u64) {
            let mut whole = vec![0; to_index(sectors.end - sectors.start)];
            self.read_plain(device, sectors.start, &mut whole)?;
            let start = to_index(offset - sectors.start);
            buffer.copy_from_slice(&whole[start..start + buffer.len()]);
            return Ok(());
        }
        let place = self.place(device, Operation::Read, offset, buffer.len() as u64)?;
        self.storage.read(device.file(), place, buffer)?;
        self.decrypt(device, offset, buffer)
    }

    /// Decrypts what was read from `offset`; sectors behind the end of the device stay zeros.
    fn decrypt(&self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let inside = self.length_bytes(device).saturating_sub(offset).next_multiple_of(SECTOR as u64);
        let inside = usize::try_from(inside).unwrap_or(usize::MAX).min(buffer.len());
        self.view(device, Operation::Read, offset)?.cipher.decrypt(offset / SECTOR as u64, &mut buffer[..inside]);
        Ok(())
    }

    /// Encrypts `bytes` in place and writes them, whole sectors.
    fn write_sectors(&mut self, device: DeviceId, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let place = self.place(device, Operation::Write, offset, bytes.len() as u64)?;
        self.view(device, Operation::Write, offset)?.cipher.encrypt(offset / SECTOR as u64, bytes);
        self.storage.write(device.file(), place, bytes)
    }

    /// Writes `bytes`, which are lost; parts of sectors are completed with what is there.
    fn write_plain(&mut self, device: DeviceId, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let sectors = sectors_of(offset, bytes.len() as u64);
        if sectors == (offset..offset + bytes.len() as u64) {
            return self.write_sectors(device, offset, bytes);
        }
        let mut whole = vec![0; to_index(sectors.end - sectors.start)];
        self.read_plain(device, sectors.start, &mut whole)?;
        let start = to_index(offset - sectors.start);
        whole[start..start + bytes.len()].copy_from_slice(bytes);
        self.write_sectors(device, sectors.start, &mut whole)
    }

    /// Copies in which the target or a source is encrypted.
    fn copy_through(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut portions: Vec<Portion> = Vec::new();
        let mut filled = 0;
        for segment in segments {
            let mut done = 0;
            while done < segment.length_bytes {
                if filled == PIECE_BYTES {
                    self.carry(target, &portions, &mut buffer)?;
                    portions.clear();
                    filled = 0;
                }
                let length = to_index((segment.length_bytes - done).min((PIECE_BYTES - filled) as u64));
                portions.push(Portion {
                    target_offset: segment.target_offset + done,
                    source: segment.source,
                    source_offset: segment.source_offset + done,
                    range: filled..filled + length,
                });
                filled += length;
                done += length as u64;
            }
        }
        self.carry(target, &portions, &mut buffer)
    }

    /// Reads the portions into the buffer and writes them out of it.
    fn carry(&mut self, target: DeviceId, portions: &[Portion], buffer: &mut [u8]) -> Result<(), StorageError> {
        for portions in portions.chunk_by(|left, right| left.source == right.source) {
            let mut rest = &mut *buffer;
            let mut skipped = 0;
            let mut ranges = Vec::with_capacity(portions.len());
            for portion in portions {
                let (part, behind) = rest.split_at_mut(portion.range.end - skipped);
                ranges.push((portion.source_offset, &mut part[portion.range.start - skipped..]));
                (rest, skipped) = (behind, portion.range.end);
            }
            self.read_many(portions[0].source, &mut ranges)?;
        }
        let neighbours =
            |left: &Portion, right: &Portion| left.target_offset + (left.range.len() as u64) == right.target_offset;
        for run in portions.chunk_by(neighbours) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            let bytes = &mut buffer[first.range.start..last.range.end];
            if target.is_plain() {
                self.write_plain(target, first.target_offset, bytes)?;
            } else {
                self.storage.write(target, first.target_offset, bytes)?;
            }
        }
        Ok(())
    }
}

/// The whole sectors that hold a range.
fn sectors_of(offset: u64, length: u64) -> Range<u64> {
    let sector = SECTOR as u64;
    offset / sector * sector..(offset + length).next_multiple_of(sector)
}

impl Storage for Unlocked<'_> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        let start_bytes =
            if device.is_plain() { self.views.get(&device.file()).map_or(0, |view| view.start_bytes) } else { 0 };
        self.storage.length_bytes(device.file()).saturating_sub(start_bytes)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        if device.is_plain() {
            self.read_plain(device, offset, buffer)
        } else {
            self.storage.read(device, offset, buffer)
        }
    }

    fn read_many(&mut self, device: DeviceId, ranges: &mut [(u64, &mut [u8])]) -> Result<(), StorageError> {
        if !device.is_plain() {
            return self.storage.read_many(device, ranges);
        }
        let is_whole = |(offset, buffer): &(u64, &mut [u8])| {
            offset.is_multiple_of(SECTOR as u64) && buffer.len().is_multiple_of(SECTOR)
        };
        if !ranges.iter().all(is_whole) {
            return ranges.iter_mut().try_for_each(|(offset, buffer)| self.read_plain(device, *offset, buffer));
        }
        let mut placed = Vec::with_capacity(ranges.len());
        for (offset, buffer) in &mut *ranges {
            placed.push((self.place(device, Operation::Read, *offset, buffer.len() as u64)?, &mut **buffer));
        }
        self.storage.read_many(device.file(), &mut placed)?;
        ranges.iter_mut().try_for_each(|(offset, buffer)| self.decrypt(device, *offset, buffer))
    }

    fn compare(
        &mut self,
        device: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        if !device.is_plain() && segments.iter().all(|segment| segment.other.is_none_or(|other| !other.is_plain())) {
            return self.storage.compare(device, segments, verdicts);
        }
        compare_by_reading(self, device, segments, verdicts)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if !device.is_plain() {
            return self.storage.write(device, offset, bytes);
        }
        let mut buffer = Vec::new();
        for (number, piece) in (0u64..).zip(bytes.chunks(PIECE_BYTES)) {
            buffer.clear();
            buffer.extend_from_slice(piece);
            self.write_plain(device, offset + number * PIECE_BYTES as u64, &mut buffer)?;
        }
        Ok(())
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        if !device.is_plain() {
            return self.storage.write_zeroes(device, offset, length_bytes, may_unmap);
        }
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < length_bytes {
            buffer.clear();
            buffer.resize(to_index((length_bytes - done).min(PIECE_BYTES as u64)), 0);
            self.write_plain(device, offset + done, &mut buffer)?;
            done += buffer.len() as u64;
        }
        Ok(())
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        let place =
            if device.is_plain() { self.place(device, Operation::Discard, offset, length_bytes)? } else { offset };
        self.storage.discard(device.file(), place, length_bytes)
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        let is_encrypted = |segment: &CopySegment| target.is_plain() || segment.source.is_plain();
        for segments in segments.chunk_by(|left, right| is_encrypted(left) == is_encrypted(right)) {
            if is_encrypted(&segments[0]) {
                self.copy_through(target, segments)?;
            } else {
                self.storage.copy(target, segments)?;
            }
        }
        Ok(())
    }

    fn unpack(&mut self, target: DeviceId, segments: &[UnpackSegment]) -> Result<bool, StorageError> {
        let is_encrypted = |segment: &UnpackSegment| DeviceId(segment.source.device).is_plain();
        if target.is_plain() || segments.iter().any(is_encrypted) {
            return Ok(false);
        }
        self.storage.unpack(target, segments)
    }

    fn pack(
        &mut self,
        device: DeviceId,
        codec: Codec,
        cluster_bytes: usize,
        clusters: &[u8],
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, StorageError> {
        self.storage.pack(device.file(), codec, cluster_bytes, clusters)
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        let old_length_bytes = self.length_bytes(device);
        if !device.is_plain() || length_bytes <= old_length_bytes {
            let place =
                if device.is_plain() { self.place(device, Operation::Resize, length_bytes, 0)? } else { length_bytes };
            return self.storage.resize(device.file(), place);
        }
        // Zeros that the file system adds are no zeros here. At every moment what is new shows zeros as far as it goes.
        self.write_zeroes(device, old_length_bytes, length_bytes - old_length_bytes, false)?;
        self.storage.settle()
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.storage.settle()
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.storage.flush(device.file())
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.storage.progress(done_bytes, total_bytes);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "devices in tests are small")]
mod tests;
