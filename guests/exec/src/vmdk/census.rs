//! Looks at every grain table of an extent before anything is written: no grain may lie on metadata, beyond the end of the
//! file, or on another grain. Otherwise a write to one place of the disk would change another, or the tables themselves.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_formats::vmdk::SECTOR_BYTES;

use super::sparse::Sparse;
use crate::bytes::to_index;
use crate::layer::Result;
use crate::storage::Storage;

/// How many grains are watched at once: one bit each.
const BITS_MAX: u64 = 1 << 27;

/// Checks an extent whose grains are written in place. `redundant` is the second grain directory.
///
/// # Errors
/// The first overlap that is found.
pub(super) fn check(storage: &mut dyn Storage, sparse: &mut Sparse, redundant: Option<&[u32]>) -> Result<()> {
    let metadata = Metadata::of(sparse, redundant)?;
    // A grain is known by the multiple of its length in which it begins: two that begin in the same one overlap.
    let places = sparse.end_bytes.min(1 << 41).div_ceil(sparse.geometry().grain_size_bytes);
    let mut first = 0;
    while first < places {
        let end = (first + BITS_MAX).min(places);
        check_places(storage, sparse, &metadata, first..end)?;
        first = end;
    }
    Ok(())
}

fn check_places(storage: &mut dyn Storage, sparse: &mut Sparse, metadata: &Metadata, places: Range<u64>) -> Result<()> {
    let geometry = sparse.geometry();
    let mut seen = vec![0_u64; to_index((places.end - places.start).div_ceil(64))];
    for table in 0..geometry.directory_entries() {
        if sparse.directory[to_index(table)] == 0 {
            continue;
        }
        let first = table * geometry.table_entries;
        let count = geometry.table_entries.min(geometry.grains_for(geometry.capacity_bytes) - first);
        for (grain, entry) in (first..).zip(sparse.entries(storage, first, count)?) {
            let Some(offset) = entry.host_offset() else { continue };
            let place = offset / geometry.grain_size_bytes;
            let finding = if offset >= sparse.end_bytes {
                "beyond the end of the file"
            } else if metadata.overlaps(offset, offset + geometry.grain_size_bytes) {
                "overlaps metadata"
            } else if !places.contains(&place) {
                continue;
            } else {
                let (word, bit) = (to_index((place - places.start) / 64), 1 << ((place - places.start) % 64));
                let is_taken = seen[word] & bit != 0;
                seen[word] |= bit;
                if !is_taken {
                    continue;
                }
                "is used by another grain"
            };
            return Err(sparse.corrupt(format_args!("grain offset {offset:#x} {finding} (grain: {grain:#x})")));
        }
    }
    Ok(())
}

/// Where the metadata lies.
struct Metadata {
    /// Header, descriptor and grain directories, in bytes.
    areas: Vec<Range<u64>>,
    /// First sectors of all grain tables, in order.
    tables: Vec<u32>,
    table_bytes: u64,
}

impl Metadata {
    fn of(sparse: &Sparse, redundant: Option<&[u32]>) -> Result<Self> {
        let header = &sparse.header;
        let directory_bytes = header.geometry.directory_entries() * 4;
        let mut areas = vec![0..SECTOR_BYTES, header.directory_offset..header.directory_offset + directory_bytes];
        areas.extend(header.descriptor.map(|(offset, length)| offset..offset.saturating_add(length)));
        if redundant.is_some() {
            areas.extend(header.redundant_offset.map(|offset| offset..offset + directory_bytes));
        }
        let mut tables: Vec<u32> = sparse
            .directory
            .iter()
            .chain(redundant.unwrap_or_default())
            .copied()
            .filter(|sector| *sector != 0)
            .collect();
        tables.sort_unstable();
        let table_bytes = header.geometry.table_bytes();
        let room_sectors = header.geometry.table_room_bytes() / SECTOR_BYTES;
        for pair in tables.windows(2) {
            if u64::from(pair[1] - pair[0]) < room_sectors {
                return Err(sparse.corrupt(format_args!("two grain tables overlap in sector {:#x}", pair[1])));
            }
        }
        for sector in &tables {
            let offset = u64::from(*sector) * SECTOR_BYTES;
            if areas.iter().any(|area| area.start < offset + table_bytes && offset < area.end) {
                return Err(sparse.corrupt(format_args!("grain table offset {offset:#x} overlaps other metadata")));
            }
        }
        Ok(Self { areas, tables, table_bytes })
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        let behind = self.tables.partition_point(|sector| u64::from(*sector) * SECTOR_BYTES < end);
        let in_table = behind
            .checked_sub(1)
            .is_some_and(|last| u64::from(self.tables[last]) * SECTOR_BYTES + self.table_bytes > start);
        in_table || self.areas.iter().any(|area| area.start < end && start < area.end)
    }
}
