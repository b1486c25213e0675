//! Devices in memory that are cheap to copy: pages are shared until one side writes.

use crate::image::ReadAt;
use instar_exec::{CopySegment, DeviceId, Operation, Storage, StorageError};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
/// The longest a disk may become; no case comes near.
const LENGTH_BYTES_MAX: u64 = 1 << 40;

type Page = [u8; PAGE_BYTES];

/// The bytes of one device. Pages of zeros are left out where they were never written.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pages: BTreeMap<u64, Arc<Page>>,
    length_bytes: u64,
}

impl Disk {
    /// A disk with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut disk = Self { pages: BTreeMap::new(), length_bytes: bytes.len() as u64 };
        for (index, part) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
            if part.iter().any(|byte| *byte != 0) {
                let mut page = [0; PAGE_BYTES];
                page[..part.len()].copy_from_slice(part);
                disk.pages.insert(index, Arc::new(page));
            }
        }
        disk
    }

    /// All bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length_bytes).expect("fits into memory")];
        self.read(0, &mut bytes);
        bytes
    }

    /// Length in bytes.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// How many bytes it takes to hold it.
    pub fn stored_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES as u64
    }

    /// Whether both hold the same bytes for a reason that is quick to see.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        self.length_bytes == other.length_bytes
            && self.pages.len() == other.pages.len()
            && self.pages.iter().zip(&other.pages).all(|((a, mine), (b, theirs))| a == b && Arc::ptr_eq(mine, theirs))
    }

    /// Whether both hold the same bytes.
    pub fn equals(&self, other: &Self) -> bool {
        let is_missing =
            |from: &Self, index: &u64, page: &Page| !from.pages.contains_key(index) && *page != [0; PAGE_BYTES];
        self.length_bytes == other.length_bytes
            && self.pages.iter().all(|(index, page)| match other.pages.get(index) {
                Some(theirs) => Arc::ptr_eq(page, theirs) || page == theirs,
                None => !is_missing(other, index, page),
            })
            && !other.pages.iter().any(|(index, page)| is_missing(self, index, page))
    }

    /// Fills `buffer`; zeros beyond the end.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset.saturating_add(buffer.len() as u64).min(self.length_bytes);
        if offset >= end {
            return buffer.fill(0);
        }
        let mut filled = 0;
        let page_bytes = PAGE_BYTES as u64;
        for (index, page) in self.pages.range(offset / page_bytes..end.div_ceil(page_bytes)) {
            let start = index * page_bytes;
            let (from, to) = (start.max(offset), (start + page_bytes).min(end));
            let target = index_of(from - offset)..index_of(to - offset);
            buffer[filled..target.start].fill(0);
            filled = target.end;
            buffer[target].copy_from_slice(&page[index_of(from - start)..index_of(to - start)]);
        }
        buffer[filled..].fill(0);
    }

    /// Writes within [`LENGTH_BYTES_MAX`]; the disk grows as needed.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.length_bytes = self.length_bytes.max(end);
        let page_bytes = PAGE_BYTES as u64;
        let mut at = offset;
        while at < end {
            let (index, inside) = (at / page_bytes, index_of(at % page_bytes));
            let count = (PAGE_BYTES - inside).min(index_of(end - at));
            let part = &bytes[index_of(at - offset)..][..count];
            match self.pages.get_mut(&index) {
                None if *part == [0; PAGE_BYTES][..count] => {}
                None => {
                    let mut page = [0; PAGE_BYTES];
                    page[inside..inside + count].copy_from_slice(part);
                    self.pages.insert(index, Arc::new(page));
                }
                Some(page) if page[inside..inside + count] == *part => {}
                Some(page) => Arc::make_mut(page)[inside..inside + count].copy_from_slice(part),
            }
            at += count as u64;
        }
    }

    /// Sets the bytes of a range, which may be long, to one value.
    fn fill(&mut self, offset: u64, length_bytes: u64, value: u8) {
        let page_bytes = PAGE_BYTES as u64;
        let end = offset + length_bytes;
        self.length_bytes = self.length_bytes.max(end);
        if value == 0 {
            let whole = offset.div_ceil(page_bytes)..end / page_bytes;
            if whole.start < whole.end {
                let gone: Vec<u64> = self.pages.range(whole).map(|(index, _)| *index).collect();
                gone.iter().for_each(|index| drop(self.pages.remove(index)));
            }
        }
        let mut at = offset;
        while at < end {
            let count = (page_bytes - at % page_bytes).min(end - at);
            if value != 0 || self.pages.contains_key(&(at / page_bytes)) {
                self.write(at, &[value; PAGE_BYTES][..index_of(count)]);
            }
            at += count;
        }
    }

    fn resize(&mut self, length_bytes: u64) {
        if length_bytes < self.length_bytes {
            let old = self.length_bytes;
            self.fill(length_bytes, old - length_bytes, 0);
        }
        self.length_bytes = length_bytes;
    }
}

fn index_of(value: u64) -> usize {
    usize::try_from(value).expect("within a buffer")
}

impl ReadAt for Disk {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(offset, buf);
        Ok(())
    }
}

/// All devices of a job.
#[derive(Clone, Debug, Default)]
pub struct Disks(pub Vec<Disk>);

impl Disks {
    fn get(&mut self, device: DeviceId, operation: Operation, offset: u64) -> Result<&mut Disk, StorageError> {
        let error = StorageError { device, operation, offset, errno: nix::libc::ENODEV };
        self.0.get_mut(index_of(device.0.into())).ok_or(error)
    }

    /// A disk that can hold a range.
    fn roomy(
        &mut self,
        device: DeviceId,
        operation: Operation,
        offset: u64,
        length_bytes: u64,
    ) -> Result<&mut Disk, StorageError> {
        if offset.checked_add(length_bytes).is_none_or(|end| end > LENGTH_BYTES_MAX) {
            return Err(StorageError { device, operation, offset, errno: nix::libc::EFBIG });
        }
        self.get(device, operation, offset)
    }
}

impl Storage for Disks {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.0.get(index_of(device.0.into())).map_or(0, Disk::length_bytes)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.get(device, Operation::Read, offset)?.read(offset, buffer);
        Ok(())
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.roomy(device, Operation::Write, offset, bytes.len() as u64)?.write(offset, bytes);
        Ok(())
    }

    fn write_zeroes(&mut self, device: DeviceId, offset: u64, length_bytes: u64, _: bool) -> Result<(), StorageError> {
        self.roomy(device, Operation::WriteZeroes, offset, length_bytes)?.fill(offset, length_bytes, 0);
        Ok(())
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        let disk = self.get(device, Operation::Discard, offset)?;
        let end = offset.saturating_add(length_bytes).min(disk.length_bytes);
        if offset < end {
            // What is discarded reads as anything; a pattern shows who reads it all the same.
            disk.fill(offset, end - offset, 0xdb);
        }
        Ok(())
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            let mut bytes = vec![0; index_of(segment.length_bytes)];
            self.read(segment.source, segment.source_offset, &mut bytes)?;
            self.write(target, segment.target_offset, &bytes)?;
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.roomy(device, Operation::Resize, length_bytes, 0)?.resize(length_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_holds_what_a_plain_buffer_holds() {
        const DEVICE: DeviceId = DeviceId(0);
        let mut plain: Vec<u8> = (0..20_000u32).map(|index| index.to_le_bytes()[0] | 1).collect();
        let mut disks = Disks(vec![Disk::from_bytes(&plain)]);
        let original = disks.0[0].clone();
        disks.write(DEVICE, 4000, &[7; 5000]).expect("writes");
        plain[4000..9000].fill(7);
        disks.write_zeroes(DEVICE, 100, 13_000, true).expect("writes");
        plain[100..13_100].fill(0);
        disks.discard(DEVICE, 19_000, 5000).expect("discards");
        plain[19_000..].fill(0xdb);
        disks.resize(DEVICE, 14_000).expect("resizes");
        disks.resize(DEVICE, 30_000).expect("resizes");
        plain.truncate(14_000);
        plain.resize(30_000, 0);
        assert!(disks.0[0].to_bytes() == plain);
        assert!(disks.0[0].equals(&Disk::from_bytes(&plain)) && !disks.0[0].equals(&original));
        assert!(!disks.0[0].is_shared_with(&original) && original.is_shared_with(&original.clone()));
        assert_eq!(original.to_bytes()[5000], 5000u32.to_le_bytes()[0] | 1);
    }
}
