//! Looks at every table entry before anything is written: no block may lie on metadata, beyond the end of the file, or on
//! another block. Otherwise a write to one place of the disk would change another, or the tables themselves.

use alloc::vec::Vec;
use core::ops::Range;

use instar_plan::commit::Block;

use super::image::Blocks;
use super::{Directory, Shape};
use crate::layer::Result;
use crate::storage::Storage;

/// How many places are compared at once.
const PLACES_MAX: usize = 1 << 19;

/// Where a block begins in the file and where it ends.
type Place = (u64, u64);

/// Checks an image that is about to be written. Gives the first byte behind its last block.
///
/// # Errors
/// The first overlap that is found.
pub(super) fn check(storage: &mut dyn Storage, blocks: &mut Blocks) -> Result<u64> {
    let metadata = Metadata::of(&blocks.shape)?;
    let mut last_end = metadata.end();
    let mut from = 0;
    let mut previous: Option<Place> = None;
    loop {
        let (mut places, is_complete) = lowest_places(storage, blocks, &metadata, from)?;
        places.sort_unstable();
        for place in &places {
            if previous.is_some_and(|previous| place.0 < previous.1) {
                let text = format_args!("two blocks overlap at offset {:#x}", place.0);
                return Err(blocks.shape.corrupt(text));
            }
            previous = Some(*place);
            last_end = last_end.max(place.1);
        }
        match places.last() {
            Some(last) if !is_complete => from = last.0 + 1,
            _ => return Ok(last_end),
        }
    }
}

/// The lowest places from `from` on, and whether these are all.
fn lowest_places(
    storage: &mut dyn Storage,
    blocks: &mut Blocks,
    metadata: &Metadata,
    from: u64,
) -> Result<(Vec<Place>, bool)> {
    let mut places: Vec<Place> = Vec::new();
    let mut limit = u64::MAX;
    let (page_entries, count) = (blocks.page_entries(), blocks.shape.blocks());
    let mut first = 0;
    while first < count {
        if blocks.page_offset(first / page_entries).is_none() {
            let table_entries = match &blocks.shape.directory {
                Directory::Tables { table_entries, .. } => *table_entries,
                Directory::Flat { run_entries, .. } => *run_entries,
            };
            first = (first / table_entries + 1) * table_entries;
            continue;
        }
        let end = ((first / page_entries + 1) * page_entries).min(count);
        for (block, found) in (first..).zip(blocks.page_blocks(storage, first, end - first)?) {
            let Some(place) = place_of(&blocks.shape, found) else { continue };
            if metadata.overlaps(place.0, place.1) {
                let text = format_args!("block offset {:#x} overlaps metadata (block: {block:#x})", place.0);
                return Err(blocks.shape.corrupt(text));
            }
            if (from..=limit).contains(&place.0) {
                places.push(place);
                if places.len() == 2 * PLACES_MAX {
                    places.sort_unstable();
                    if let Some(pair) = places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
                        let text = format_args!("two blocks overlap at offset {:#x}", pair[1].0);
                        return Err(blocks.shape.corrupt(text));
                    }
                    places.truncate(PLACES_MAX);
                    limit = places[PLACES_MAX - 1].0;
                }
            }
        }
        first = end;
    }
    Ok((places, limit == u64::MAX))
}

fn place_of(shape: &Shape, block: Block) -> Option<Place> {
    match block {
        Block::Unallocated | Block::Zero => None,
        Block::Data(offset) => {
            Some((offset.saturating_sub(shape.prefix_bytes), offset.saturating_add(shape.block_size_bytes)))
        }
        Block::Packed { offset, length_bytes } => Some((offset, offset.saturating_add(length_bytes))),
    }
}

/// Where the metadata lies.
struct Metadata {
    /// Header, directory and whatever else the format has.
    areas: Vec<Range<u64>>,
    /// Offsets of all lower tables, in order.
    tables: Vec<u64>,
    table_bytes: u64,
}

impl Metadata {
    fn of(shape: &Shape) -> Result<Self> {
        let mut metadata = Self { areas: shape.areas.clone(), tables: Vec::new(), table_bytes: 0 };
        match &shape.directory {
            Directory::Flat { offset, length_bytes, .. } => metadata.areas.push(*offset..offset + length_bytes),
            Directory::Tables { offset, table_entries, places } => {
                let directory_bytes = places.len() as u64 * shape.form.bytes();
                metadata.table_bytes = table_entries * shape.form.bytes();
                metadata.tables = places.iter().copied().filter(|place| *place != 0).collect();
                metadata.areas.push(*offset..offset.saturating_add(directory_bytes));
            }
        }
        metadata.tables.sort_unstable();
        if let Some(pair) = metadata.tables.windows(2).find(|pair| pair[1] - pair[0] < metadata.table_bytes) {
            return Err(shape.corrupt(format_args!("two tables overlap at offset {:#x}", pair[1])));
        }
        for offset in &metadata.tables {
            if metadata.areas.iter().any(|area| area.start < offset + metadata.table_bytes && *offset < area.end) {
                return Err(shape.corrupt(format_args!("table offset {offset:#x} overlaps other metadata")));
            }
        }
        for (index, area) in metadata.areas.iter().enumerate() {
            if metadata.areas[..index].iter().any(|other| other.start < area.end && area.start < other.end) {
                return Err(shape.corrupt(format_args!("metadata at offset {:#x} overlaps other metadata", area.start)));
            }
        }
        Ok(metadata)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        let behind = self.tables.partition_point(|offset| *offset < end);
        let in_table = behind.checked_sub(1).is_some_and(|last| self.tables[last] + self.table_bytes > start);
        in_table || self.areas.iter().any(|area| area.start < end && start < area.end)
    }

    fn end(&self) -> u64 {
        let areas = self.areas.iter().map(|area| area.end).max().unwrap_or(0);
        self.tables.last().map_or(areas, |last| areas.max(last + self.table_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::EntryForm;
    use crate::storage::DeviceId;
    use alloc::vec;

    fn shape(directory: Directory) -> Shape {
        Shape {
            layer: 1,
            device: DeviceId(0),
            size_bytes: 1 << 30,
            block_size_bytes: 4096,
            form: EntryForm::Big64,
            directory,
            prefix_bytes: 0,
            alignment_bytes: 512,
            end_bytes: 0,
            areas: core::iter::once(0..512).collect(),
        }
    }

    /// Where metadata begins and ends again, as it is felt by ranges of one byte.
    fn edges(metadata: &Metadata) -> Vec<u64> {
        let mut edges = Vec::new();
        for offset in 1..20_000 {
            if metadata.overlaps(offset - 1, offset) != metadata.overlaps(offset, offset + 1) {
                edges.push(offset);
            }
        }
        edges
    }

    #[test]
    fn metadata_lies_where_the_directory_says() {
        let flat = Directory::Flat { offset: 1024, run_entries: 8, stride_bytes: 64, length_bytes: 2000 };
        assert_eq!(edges(&Metadata::of(&shape(flat)).unwrap()), [512, 1024, 3024]);
        let tables = Directory::Tables { offset: 1024, table_entries: 64, places: vec![8192, 0, 4096] };
        let metadata = Metadata::of(&shape(tables)).unwrap();
        assert_eq!(edges(&metadata), [512, 1024, 1048, 4096, 4608, 8192, 8704]);
        assert_eq!(metadata.end(), 8704);
    }

    #[test]
    fn tables_that_touch_are_fine_and_tables_that_overlap_are_not() {
        let with = |places: Vec<u64>| {
            Metadata::of(&shape(Directory::Tables { offset: 1024, table_entries: 64, places })).map(|_| ())
        };
        assert!(with(vec![4096, 4608]).is_ok());
        assert!(with(vec![4096, 4600]).is_err() && with(vec![4096, 4096]).is_err());
        assert!(with(vec![1032]).is_ok() && with(vec![1031]).is_err());
        assert!(with(vec![512]).is_ok() && with(vec![511]).is_err() && with(vec![520]).is_err());
    }
}
