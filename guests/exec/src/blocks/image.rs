//! An image of tables and blocks as a layer. Tables are read in pages through a window, and only as far as needed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use instar_plan::commit::Block;
use instar_plan::extent::{self, Codec, CompressedSource, Extent, Source};

use super::{Dialect, Directory, Shape};
use crate::bytes::{read_vec, to_index};
use crate::layer::{Layer, Result};
use crate::storage::Storage;

/// How much of the file is read at once when a page is needed.
const WINDOW_BYTES: u64 = 64 << 10;
/// The most entries of a table of tables that are read and written together.
const PAGE_ENTRIES_MAX: u64 = 512;

/// An open image.
pub struct Blocks {
    pub(super) shape: Shape,
    pub(super) dialect: Box<dyn Dialect>,
    /// Pages that differ from what the file holds, by their index.
    pub(super) changed: BTreeMap<u64, Vec<u8>>,
    /// First byte behind what the file holds, and what has been put there since: no block lies at or beyond it.
    pub(super) limit_bytes: u64,
    window: Vec<u8>,
    window_offset: u64,
}

impl Blocks {
    /// Opens an image whose header has been read.
    ///
    /// # Errors
    /// If tables lie beyond the end of the file.
    pub fn open(storage: &mut dyn Storage, shape: Shape, dialect: Box<dyn Dialect>) -> Result<Self> {
        let file_length_bytes = storage.length_bytes(shape.device);
        let beyond = |offset: u64, length: u64| offset.checked_add(length).is_none_or(|end| end > file_length_bytes);
        match &shape.directory {
            Directory::Flat { offset, length_bytes, .. } if beyond(*offset, *length_bytes) => {
                return Err(shape.corrupt(format_args!("block table offset {offset:#x} beyond the end of the file")));
            }
            Directory::Flat { .. } => {}
            Directory::Tables { table_entries, places, .. } => {
                let table_bytes = table_entries * shape.form.bytes();
                for (index, place) in places.iter().enumerate().filter(|(_, place)| **place != 0) {
                    if beyond(*place, table_bytes) || !place.is_multiple_of(shape.form.bytes()) {
                        let text = format_args!("L2 table offset {place:#x} invalid (L1 index: {index:#x})");
                        return Err(shape.corrupt(text));
                    }
                }
            }
        }
        Ok(Self {
            shape,
            dialect,
            changed: BTreeMap::new(),
            limit_bytes: file_length_bytes,
            window: Vec::new(),
            window_offset: 0,
        })
    }

    /// Reads the upper table of a table of tables: as many offsets as the disk needs.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn read_places(storage: &mut dyn Storage, shape: &Shape, offset: u64, count: u64) -> Result<Vec<u64>> {
        let bytes = read_vec(storage, shape.layer, shape.device, offset, count * shape.form.bytes())?;
        Ok(bytes.chunks_exact(to_index(shape.form.bytes())).map(|raw| shape.form.get(raw)).collect())
    }

    /// Number of entries in a page.
    pub(super) fn page_entries(&self) -> u64 {
        match &self.shape.directory {
            Directory::Flat { run_entries, .. } => *run_entries,
            Directory::Tables { table_entries, .. } => (*table_entries).min(PAGE_ENTRIES_MAX),
        }
    }

    /// Length of a page in bytes: the last page of a flat table ends with the disk.
    fn page_bytes(&self, page: u64) -> u64 {
        let entries = match &self.shape.directory {
            Directory::Flat { run_entries, .. } => {
                self.shape.blocks().saturating_sub(page * run_entries).min(*run_entries)
            }
            Directory::Tables { .. } => self.page_entries(),
        };
        entries * self.shape.form.bytes()
    }

    /// Index of the lower table that a block belongs to.
    pub(super) fn table_of(&self, block: u64) -> usize {
        match &self.shape.directory {
            Directory::Flat { .. } => 0,
            Directory::Tables { table_entries, .. } => to_index(block / table_entries),
        }
    }

    /// Where a page lies; `None` where there is no table for it.
    pub(super) fn page_offset(&self, page: u64) -> Option<u64> {
        match &self.shape.directory {
            Directory::Flat { offset, stride_bytes, .. } => Some(offset + page * stride_bytes),
            Directory::Tables { table_entries, places, .. } => {
                let first = page * self.page_entries();
                let place = places.get(to_index(first / table_entries)).copied().filter(|place| *place != 0)?;
                Some(place + first % table_entries * self.shape.form.bytes())
            }
        }
    }

    /// The bytes of a page; `None` where there is no table for it.
    pub(super) fn page(&mut self, storage: &mut dyn Storage, page: u64) -> Result<Option<&[u8]>> {
        if self.changed.contains_key(&page) {
            return Ok(self.changed.get(&page).map(Vec::as_slice));
        }
        let Some(offset) = self.page_offset(page) else { return Ok(None) };
        let length = to_index(self.page_bytes(page));
        let held = offset.checked_sub(self.window_offset).and_then(|skip| usize::try_from(skip).ok());
        let skip = match held.filter(|skip| self.window.len().checked_sub(*skip).is_some_and(|rest| rest >= length)) {
            Some(skip) => skip,
            None => {
                let read_bytes = WINDOW_BYTES.max(length as u64);
                self.window = read_vec(storage, self.shape.layer, self.shape.device, offset, read_bytes)?;
                self.window_offset = offset;
                0
            }
        };
        Ok(Some(&self.window[skip..skip + length]))
    }

    /// The bytes of a page, to be changed.
    pub(super) fn page_mut(&mut self, storage: &mut dyn Storage, page: u64) -> Result<&mut Vec<u8>> {
        if !self.changed.contains_key(&page) {
            let length = to_index(self.page_bytes(page));
            let bytes = self.page(storage, page)?.map_or_else(|| alloc::vec![0; length], <[u8]>::to_vec);
            self.changed.insert(page, bytes);
        }
        Ok(self.changed.get_mut(&page).expect("the page was there or has just been put there"))
    }

    /// Takes all pages that were changed, and forgets what was read: the file is going to be another one.
    pub(super) fn take_changed(&mut self) -> BTreeMap<u64, Vec<u8>> {
        self.window = Vec::new();
        core::mem::take(&mut self.changed)
    }

    /// What the image says about `count` blocks from `first` on, all of the same page.
    pub(super) fn page_blocks(&mut self, storage: &mut dyn Storage, first: u64, count: u64) -> Result<Vec<Block>> {
        let (page, start) = (first / self.page_entries(), first % self.page_entries());
        let (form, entry_bytes) = (self.shape.form, to_index(self.shape.form.bytes()));
        let limit_bytes = self.limit_bytes;
        let Some(bytes) = self.page(storage, page)? else {
            return Ok(alloc::vec![Block::Unallocated; to_index(count)]);
        };
        let raw: Vec<u64> = bytes
            .chunks_exact(entry_bytes)
            .skip(to_index(start))
            .take(to_index(count))
            .map(|raw| form.get(raw))
            .collect();
        (first..)
            .zip(raw)
            .map(|(block, raw)| {
                let finding = match self.dialect.decode(raw) {
                    Ok(Block::Data(offset) | Block::Packed { offset, .. }) if offset >= limit_bytes => {
                        "lies beyond the end of the file"
                    }
                    Ok(found) => return Ok(found),
                    Err(finding) => finding,
                };
                Err(self.shape.corrupt(format_args!("the table entry {raw:#x} {finding} (block: {block:#x})")))
            })
            .collect()
    }

    /// What the image says about the blocks `first..end`.
    pub(super) fn blocks(&mut self, storage: &mut dyn Storage, first: u64, end: u64) -> Result<Vec<Block>> {
        let mut blocks = Vec::with_capacity(to_index(end - first));
        let mut next = first;
        while next < end {
            let page_end = (next / self.page_entries() + 1) * self.page_entries();
            blocks.extend(self.page_blocks(storage, next, page_end.min(end) - next)?);
            next = page_end.min(end);
        }
        Ok(blocks)
    }

    fn source(&self, block: Block) -> Source {
        match block {
            Block::Unallocated => Source::Absent,
            Block::Zero => Source::Zero,
            Block::Data(host_offset) => Source::Data { device: self.shape.device.0, host_offset },
            Block::Packed { offset, length_bytes } => Source::Compressed(CompressedSource {
                layer: self.shape.layer,
                device: self.shape.device.0,
                host_offset: offset,
                length_bytes,
                cluster_size_bytes: self.shape.block_size_bytes,
                codec: Codec::Deflate,
                offset_in_cluster: 0,
            }),
        }
    }
}

impl Layer for Blocks {
    fn size_bytes(&self) -> u64 {
        self.shape.size_bytes
    }

    fn map(&mut self, storage: &mut dyn Storage, start: u64, end: u64, extents: &mut Vec<Extent>) -> Result<()> {
        let size = self.shape.block_size_bytes;
        let coverage = self.page_entries().saturating_mul(size);
        let mut offset = start;
        while offset < end {
            let page = offset / coverage;
            let next = (page + 1).saturating_mul(coverage).min(end);
            if self.page(storage, page)?.is_none() {
                let absent = Extent { guest_offset: offset, length_bytes: next - offset, source: Source::Absent };
                extent::push(extents, absent);
            } else {
                let first = offset / size;
                for (block, found) in (first..).zip(self.page_blocks(storage, first, next.div_ceil(size) - first)?) {
                    let source = self.source(found);
                    let whole = Extent { guest_offset: block * size, length_bytes: size, source };
                    if let Some(piece) = whole.clipped(offset, next) {
                        extent::push(extents, piece);
                    }
                }
            }
            offset = next;
        }
        Ok(())
    }

    fn next_mapped(&self, from: u64) -> u64 {
        match &self.shape.directory {
            Directory::Flat { .. } => from,
            Directory::Tables { table_entries, places, .. } => {
                let coverage = table_entries.saturating_mul(self.shape.block_size_bytes);
                let first = from / coverage;
                match places.iter().skip(to_index(first)).position(|place| *place != 0) {
                    None => u64::MAX,
                    Some(0) => from,
                    Some(distance) => (first + distance as u64) * coverage,
                }
            }
        }
    }

    fn cluster_size_bytes(&self) -> u64 {
        self.shape.block_size_bytes
    }
}
