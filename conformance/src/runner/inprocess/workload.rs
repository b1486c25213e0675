//! Fixed jobs for planner and executor on disks of which only the tables are real: what they do is counted in instructions
//! (tests/instructions.rs). No time, no chance and no hash table has a part in them.
//!
//! Does not count: data, which the host moves, and devices, which are in memory here.

use super::{Disk, Disks, carry_out};
use instar_abi::job::{ABI_VERSION, MAX_DEVICES, MAX_NAME_BYTES};
use instar_abi::job::{
    CommitJob, DeviceEntry, JOB_MAGIC, JobHeader, RebaseJob, commit_flag, device_flag, format, operation, role,
};
use instar_abi::report::{ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::{CompareSegment, CopySegment, DeviceId, Storage, StorageError, Verdict};

/// A job and its disks.
pub struct Workload {
    operation: u32,
    job: Vec<u8>,
    storage: TablesOnly,
}

/// The names of all workloads.
pub const NAMES: [&str; 5] =
    ["commit-small", "commit-bulk-64m", "commit-scattered-4k", "rebase-safe-equal-1g", "rebase-safe-different-64m"];

impl Workload {
    /// Prepares a workload.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        const MIB: u64 = 1 << 20;
        let backing = Some(&b"base"[..]);
        let whole = |size_bytes: u64, cluster_bits| (0..size_bytes >> cluster_bits).collect::<Vec<u64>>();
        let nothing = |size_bytes, cluster_bits, backing| image(size_bytes, cluster_bits, backing, &[]);
        let (operation, images, verdict) = match name {
            "commit-small" => {
                let top = image(1024 * MIB, 16, backing, &whole(MIB, 16));
                (operation::COMMIT, vec![top, nothing(1024 * MIB, 16, None)], Verdict::Equal)
            }
            "commit-bulk-64m" => {
                let top = image(64 * MIB, 16, backing, &whole(64 * MIB, 16));
                (operation::COMMIT, vec![top, nothing(64 * MIB, 16, None)], Verdict::Equal)
            }
            "commit-scattered-4k" => {
                // 8192 clusters of a disk of 1 GiB, none beside another, in an order of their own.
                let clusters: Vec<u64> = (0..8192).map(|index| (index * 5227) % 8192 * 32).collect();
                let top = image(1024 * MIB, 12, backing, &clusters);
                (operation::COMMIT, vec![top, nothing(1024 * MIB, 12, None)], Verdict::Equal)
            }
            "rebase-safe-equal-1g" => {
                let full = || image(1024 * MIB, 16, None, &whole(1024 * MIB, 16));
                (operation::REBASE, vec![nothing(1024 * MIB, 16, backing), full(), full()], Verdict::Equal)
            }
            "rebase-safe-different-64m" => {
                let full = || image(64 * MIB, 16, None, &whole(64 * MIB, 16));
                (operation::REBASE, vec![nothing(64 * MIB, 16, backing), full(), full()], Verdict::Differs)
            }
            _ => return None,
        };
        let job = job(operation, images.len());
        Some(Self { operation, job, storage: TablesOnly { disks: Disks(images), verdict } })
    }

    /// Carries the job out. This is the function whose instructions are counted.
    ///
    /// # Errors
    /// If it does not succeed.
    #[inline(never)]
    pub fn measured(&mut self) -> Result<(), String> {
        let area = carry_out(self.operation, &self.job, &mut self.storage).map_err(|error| error.to_string())?;
        let header = ReportHeader::get(&area);
        let length = usize::try_from(header.text_length_bytes).unwrap_or(0).min(header.text.len());
        let text = String::from_utf8_lossy(&header.text[..length]).into_owned();
        if header.outcome == outcome::DONE { Ok(()) } else { Err(text) }
    }
}

/// Disks that take data for granted.
struct TablesOnly {
    disks: Disks,
    /// What every comparison says.
    verdict: Verdict,
}

impl Storage for TablesOnly {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.disks.length_bytes(device)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.disks.read(device, offset, buffer)
    }

    fn compare(
        &mut self,
        _: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        let units =
            segments.iter().map(|segment| segment.length_bytes.div_ceil(segment.unit_bytes.into())).sum::<u64>();
        verdicts.extend((0..units).map(|_| self.verdict));
        Ok(())
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.disks.write(device, offset, bytes)
    }

    fn write_zeroes(&mut self, device: DeviceId, offset: u64, length: u64, unmap: bool) -> Result<(), StorageError> {
        self.disks.write_zeroes(device, offset, length, unmap)
    }

    fn discard(&mut self, _: DeviceId, _: u64, _: u64) -> Result<(), StorageError> {
        Ok(())
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        let end = segments.iter().map(|segment| segment.target_offset + segment.length_bytes).max().unwrap_or(0);
        if end > self.disks.length_bytes(target) { self.disks.resize(target, end) } else { Ok(()) }
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.disks.resize(device, length_bytes)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&mut self, _: DeviceId) -> Result<(), StorageError> {
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

/// A job for layers that are a qcow2 image each: a commit of the first into the second; or a rebase of the first, from the second
/// to the third.
fn job(job_operation: u32, layers: usize) -> Vec<u8> {
    let count = u32::try_from(layers).expect("few");
    let mut job = vec![0; JobHeader::SIZE_BYTES + MAX_DEVICES * DeviceEntry::SIZE_BYTES];
    let header = JobHeader {
        magic: JOB_MAGIC,
        abi_version: ABI_VERSION,
        operation: job_operation,
        device_count: count,
        layer_count: count,
    };
    header.put(&mut job);
    for (layer, row) in (0..count).zip(job[JobHeader::SIZE_BYTES..].chunks_exact_mut(DeviceEntry::SIZE_BYTES)) {
        let flags = device_flag::WRITABLE;
        DeviceEntry { role: role::IMAGE, layer, index: 0, format: format::QCOW2, flags, reserved: 0 }.put(row);
    }
    let part = job.len();
    if job_operation == operation::COMMIT {
        job.resize(part + CommitJob::SIZE_BYTES, 0);
        CommitJob { base_layer: 1, flags: commit_flag::EMPTY_OVERLAY }.put(&mut job[part..]);
    } else {
        job.resize(part + RebaseJob::SIZE_BYTES, 0);
        let (mut name, mut format_name) = ([0; MAX_NAME_BYTES], [0; 16]);
        name[..3].copy_from_slice(b"new");
        format_name[..5].copy_from_slice(b"qcow2");
        RebaseJob { flags: 0, old_layers: 1, join_layer: 2, name_length_bytes: 3, name, format_name }
            .put(&mut job[part..]);
    }
    job
}

/// A qcow2 image, version 3, that holds these clusters of its disk, one behind the other. Where their data lies nothing is stored.
fn image(size_bytes: u64, cluster_bits: u32, backing: Option<&[u8]>, guests: &[u64]) -> Disk {
    let cluster_bytes = 1u64 << cluster_bits;
    let table_entries = cluster_bytes / 8;
    let l1_entries = size_bytes.div_ceil(cluster_bytes * table_entries);
    let mut tables: Vec<u64> = guests.iter().map(|guest| guest / table_entries).collect();
    tables.sort_unstable();
    tables.dedup();
    // Header, refcount table, refcount blocks, L1 table, L2 tables, data.
    let l1_clusters = (l1_entries * 8).div_ceil(cluster_bytes);
    let others = 2 + l1_clusters + tables.len() as u64 + guests.len() as u64;
    let block_entries = cluster_bytes / 2;
    let blocks = (others + others.div_ceil(block_entries)).div_ceil(block_entries);
    let l1_start = 2 + blocks;
    let l2_start = l1_start + l1_clusters;
    let data_start = l2_start + tables.len() as u64;
    let clusters = data_start + guests.len() as u64;

    let mut bytes = vec![0; index_of(data_start * cluster_bytes)];
    let mut put = |offset: u64, value: &[u8]| bytes[index_of(offset)..][..value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &cluster_bits.to_be_bytes());
    put(24, &size_bytes.to_be_bytes());
    put(36, &u32::try_from(l1_entries).expect("small").to_be_bytes());
    put(40, &(l1_start * cluster_bytes).to_be_bytes());
    put(48, &cluster_bytes.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    if let Some(name) = backing {
        put(104, &0xe279_2aca_u32.to_be_bytes());
        put(108, &5u32.to_be_bytes());
        put(112, b"qcow2");
        put(8, &512u64.to_be_bytes());
        put(16, &u32::try_from(name.len()).expect("short").to_be_bytes());
        put(512, name);
    }
    for block in 0..blocks {
        put(cluster_bytes + 8 * block, &((2 + block) * cluster_bytes).to_be_bytes());
    }
    for cluster in 0..clusters {
        put(2 * cluster_bytes + 2 * cluster, &1u16.to_be_bytes());
    }
    const COPIED: u64 = 1 << 63;
    for (place, table) in (l2_start..).zip(&tables) {
        put(l1_start * cluster_bytes + 8 * table, &((place * cluster_bytes) | COPIED).to_be_bytes());
    }
    for (host, guest) in (data_start..).zip(guests) {
        let table = tables.binary_search(&(guest / table_entries)).expect("listed") as u64;
        let entry = (l2_start + table) * cluster_bytes + 8 * (guest % table_entries);
        put(entry, &((host * cluster_bytes) | COPIED).to_be_bytes());
    }
    let mut disks = Disks(vec![Disk::from_bytes(&bytes)]);
    disks.resize(DeviceId(0), clusters * cluster_bytes).expect("not too long");
    disks.0.remove(0)
}

fn index_of(value: u64) -> usize {
    usize::try_from(value).expect("a small image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_does_its_work() {
        for name in NAMES {
            let mut workload = Workload::named(name).expect("listed");
            let before: Vec<u64> = workload.storage.disks.0.iter().map(Disk::length_bytes).collect();
            assert_eq!(workload.measured(), Ok(()), "{name}");
            let after: Vec<u64> = workload.storage.disks.0.iter().map(Disk::length_bytes).collect();
            let has_grown: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before < after).collect();
            let expected: &[bool] = match name {
                "rebase-safe-equal-1g" => &[false; 3],
                "rebase-safe-different-64m" => &[true, false, false],
                _ => &[false, true],
            };
            assert_eq!(has_grown, expected, "{name}: {before:?} {after:?}");
        }
    }
}
