//! Consistency of a qcow2 image: counts of corruptions and leaks, as `qemu-img check` counts them for sound structures.
//!
//! What it cannot see: whether the data is right; guest-visible overlap of two clusters shows only as a refcount that is too low.

use super::super::bytes::{be32, be64};
use super::super::{Files, ImageError, OnDisk, bad};
use super::entries::{Cluster, L2Entry, OFFSET_MASK};
use super::header::{DIRTY, EXTERNAL_DATA};
use super::refcounts::{Demanded, Stored};
use super::{Qcow2, entries, snapshots};
use std::path::Path;

/// Bits of a standard L2 entry that no version of the format uses.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// References that are wrong, refcounts that are too low, COPIED flags that lie.
    pub corruptions: u64,
    /// Those of them that are about refcounts alone, which mean nothing in an image that is marked dirty.
    pub of_refcounts: u64,
    /// The image is marked dirty.
    pub is_dirty: bool,
    /// Clusters with a refcount that is too high.
    pub leaks: u64,
    /// One line each, at most 20.
    pub notes: Vec<String>,
}

impl CheckResult {
    fn corrupt(&mut self, note: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.note(note);
    }

    fn wrong_refcount(&mut self, note: impl FnOnce() -> String) {
        self.of_refcounts += 1;
        self.corrupt(note);
    }

    fn note(&mut self, note: impl FnOnce() -> String) {
        if self.notes.len() < 20 {
            self.notes.push(note());
        }
    }
}

/// Checks the qcow2 file at `path`.
pub fn check(path: &Path) -> Result<CheckResult, ImageError> {
    check_in(&OnDisk, path)
}

/// As [`check`], with every file looked up in `among`.
pub fn check_in(among: &dyn Files, path: &Path) -> Result<CheckResult, ImageError> {
    let image = Qcow2::open_in(among, path)?;
    let mut result = CheckResult { is_dirty: image.header.incompatible & DIRTY != 0, ..CheckResult::default() };
    let stored = Stored::read(&image.source, &image.header)?;
    let mut demanded = Demanded::new(&image.header, &image.source);
    let header = &image.header;
    let size = header.cluster_size();
    demanded.add(0, size);
    walk_l1(&image, &image.l1, header.l1_offset, &mut demanded, &mut result, Some(&stored))?;
    snapshots(&image, &mut demanded, &mut result)?;
    bitmaps(&image, &mut demanded)?;
    demanded.add(header.refcount_table_offset, u64::from(header.refcount_table_clusters) * size);
    for block in &stored.blocks {
        demanded.add(*block, size);
    }
    result.corruptions += stored.bad_blocks + demanded.wild;
    result.of_refcounts += stored.bad_blocks;
    if stored.bad_blocks + demanded.wild > 0 {
        result.note(|| format!("{} wild references", stored.bad_blocks + demanded.wild));
    }
    let mut clusters: Vec<u64> = stored.counts.keys().chain(demanded.counts.keys()).copied().collect();
    clusters.sort_unstable();
    clusters.dedup();
    // Refcounts of clusters beyond the end of the file own nothing.
    clusters.retain(|cluster| cluster * size < image.source.length());
    for cluster in clusters {
        let have = stored.counts.get(&cluster).copied().unwrap_or(0);
        let need = demanded.counts.get(&cluster).copied().unwrap_or(0);
        if have > need {
            result.leaks += 1;
            result.note(|| format!("cluster {cluster} leaked: refcount {have}, references {need}"));
        } else if have < need {
            result.wrong_refcount(|| format!("cluster {cluster}: refcount {have}, references {need}"));
        }
    }
    Ok(result)
}

/// Counts an L1 table and everything below; with `flags`, COPIED bits are compared with the stored refcounts.
fn walk_l1(
    image: &Qcow2,
    l1: &[u64],
    l1_offset: u64,
    demanded: &mut Demanded,
    result: &mut CheckResult,
    flags: Option<&Stored>,
) -> Result<(), ImageError> {
    let size = image.header.cluster_size();
    demanded.add(l1_offset, l1.len() as u64 * 8);
    for entry in l1 {
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            continue;
        }
        if !offset.is_multiple_of(size) {
            result.corrupt(|| format!("L2 table offset {offset:#x} unaligned"));
            demanded.add(offset, size);
            continue;
        }
        demanded.add(offset, size);
        if let Some(stored) = flags {
            copied_flag(*entry, offset, size, stored, result, "L1 entry");
        }
        let Some(table) = image.l2_table(*entry)? else { continue };
        for index in 0..image.l2_entries() {
            let entry = L2Entry::read(&table, index, &image.header);
            walk_entry(image, entry, demanded, result, flags);
        }
    }
    Ok(())
}

fn walk_entry(
    image: &Qcow2,
    entry: L2Entry,
    demanded: &mut Demanded,
    result: &mut CheckResult,
    flags: Option<&Stored>,
) {
    let header = &image.header;
    let size = header.cluster_size();
    if header.extended_l2() && !entry.is_compressed() && (entry.bitmap >> 32) & entry.bitmap & 0xffff_ffff != 0 {
        result.corrupt(|| "subcluster both allocated and zero".into());
    }
    match entry.cluster(header) {
        Cluster::Compressed { offset, length } => {
            if entry.copied() {
                result.corrupt(|| format!("compressed cluster at {offset:#x} has the COPIED flag"));
            }
            demanded.add(offset, length);
        }
        Cluster::Standard { offset, .. } => {
            if !entry.has_host_cluster(header) {
                if header.extended_l2() && entry.bitmap & 0xffff_ffff != 0 {
                    result.corrupt(|| "allocated subclusters without a host cluster".into());
                }
                return;
            }
            if entry.raw & RESERVED != 0 {
                result.corrupt(|| format!("L2 entry {:#x} has reserved bits set", entry.raw));
            }
            if offset % size != 0 {
                result.corrupt(|| format!("cluster offset {offset:#x} unaligned"));
            }
            // Clusters of an external data file have no refcounts.
            if header.incompatible & EXTERNAL_DATA == 0 {
                demanded.add(offset, size);
                if let Some(stored) = flags {
                    copied_flag(entry.raw, offset, size, stored, result, "L2 entry");
                }
            }
        }
    }
}

fn copied_flag(raw: u64, offset: u64, size: u64, stored: &Stored, result: &mut CheckResult, what: &str) {
    let refcount = stored.counts.get(&(offset / size)).copied().unwrap_or(0);
    if (refcount == 1) != (raw & entries::COPIED != 0) {
        result.wrong_refcount(|| format!("{what} for {offset:#x}: COPIED flag does not fit refcount {refcount}"));
    }
}

fn snapshots(image: &Qcow2, demanded: &mut Demanded, result: &mut CheckResult) -> Result<(), ImageError> {
    let header = &image.header;
    let (snapshots, end) = snapshots::read_table(image)?;
    for snapshot in &snapshots {
        let (l1_offset, l1_entries) = (snapshot.l1_offset, snapshot.l1_entries);
        if l1_offset % header.cluster_size() != 0 || l1_entries * 8 > 32 << 20 {
            result.corrupt(|| format!("snapshot L1 table at {l1_offset:#x}"));
            continue;
        }
        let l1 = image.source.bytes(l1_offset, l1_entries * 8)?;
        let l1: Vec<u64> = l1.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        walk_l1(image, &l1, l1_offset, demanded, result, None)?;
    }
    if header.snapshot_count > 0 {
        demanded.add(header.snapshot_offset, end - header.snapshot_offset);
    }
    Ok(())
}

/// Bitmap directory, tables and data clusters; only where autoclear bit 0 says that they are consistent.
fn bitmaps(image: &Qcow2, demanded: &mut Demanded) -> Result<(), ImageError> {
    let Some(extension) = image.header.bitmaps.filter(|_| image.header.autoclear & 1 != 0) else { return Ok(()) };
    let size = image.header.cluster_size();
    demanded.add(extension.directory_offset, extension.directory_size);
    let directory = image.source.bytes(extension.directory_offset, extension.directory_size)?;
    let mut at = 0usize;
    for _ in 0..extension.count {
        let Some(entry) = directory.get(at..at + 24) else { return bad("bitmap directory too short") };
        let (table_offset, table_entries) = (be64(entry, 0), u64::from(be32(entry, 8)));
        let name = usize::from(u16::from_be_bytes([entry[18], entry[19]]));
        let extra = be32(entry, 20) as usize;
        at = (at + 24 + extra + name).next_multiple_of(8);
        demanded.add(table_offset, table_entries * 8);
        for slot in image.source.bytes(table_offset, table_entries * 8)?.chunks_exact(8) {
            let offset = be64(slot, 0) & OFFSET_MASK;
            if offset != 0 {
                demanded.add(offset, size);
            }
        }
    }
    Ok(())
}
