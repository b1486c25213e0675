//! An L1 table: where the L2 tables of a disk lie.
//!
//! Source: qcow2 format document, section "Cluster mapping".

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::entry::L1Entry;
use instar_formats::qcow2::geometry::Geometry;

use crate::bytes::{is_zero, read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

const ENTRY_BYTES: usize = 8;
/// How much of a table is kept or left out together.
const PAGE_BYTES: usize = 512;
const PAGE_ENTRIES: u64 = (PAGE_BYTES / ENTRY_BYTES) as u64;

/// The table as it stands in the file, in pages. A large disk's table is large and mostly empty; of pages that are empty there is only
/// the place.
#[derive(Default)]
pub(super) struct L1Table(Vec<Option<Box<[u8; PAGE_BYTES]>>>);

impl L1Table {
    /// Reads a table of so many entries; one that is not wholly inside the file is an error, as its entries would be lost unnoticed.
    pub(super) fn read(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        offset: u64,
        entries: u32,
    ) -> Result<Self> {
        let length_bytes = u64::from(entries) * ENTRY_BYTES as u64;
        if offset.checked_add(length_bytes).is_none_or(|end| end > storage.length_bytes(device)) {
            return Err(Failure {
                errno: 5,
                ..Failure::new(error_kind::OPEN, layer, "Could not read L1 table: Input/output error")
            });
        }
        let bytes = read_vec(storage, layer, device, offset, length_bytes)?;
        let pages = bytes.chunks(PAGE_BYTES).map(|piece| {
            (!is_zero(piece)).then(|| {
                let mut page = Box::new([0; PAGE_BYTES]);
                page[..piece.len()].copy_from_slice(piece);
                page
            })
        });
        Ok(Self(pages.collect()))
    }

    /// Checks that every L2 table begins at a cluster inside the file.
    pub(super) fn check(&self, layer: u32, geometry: &Geometry, file_length_bytes: u64) -> Result<()> {
        for (index, offset) in self.tables_from(0) {
            let finding = if !geometry.is_cluster_aligned(offset) {
                "unaligned"
            } else if offset >= file_length_bytes {
                "beyond the end of the file"
            } else {
                continue;
            };
            let text = format_args!("L2 table offset {offset:#x} {finding} (L1 index: {index:#x})");
            return Err(Failure::new(error_kind::CORRUPT, layer, text));
        }
        Ok(())
    }

    /// An entry; behind the end all are empty.
    pub(super) fn get(&self, index: u64) -> L1Entry {
        let page = self.0.get(to_index(index / PAGE_ENTRIES)).and_then(Option::as_deref);
        page.map_or(L1Entry(0), |page| entry(page, index % PAGE_ENTRIES))
    }

    /// Changes an entry.
    pub(super) fn set(&mut self, index: u64, entry: L1Entry) {
        let number = to_index(index / PAGE_ENTRIES);
        if number >= self.0.len() {
            self.0.resize(number + 1, None);
        }
        let page = self.0[number].get_or_insert_with(|| Box::new([0; PAGE_BYTES]));
        page[place(index % PAGE_ENTRIES)..][..ENTRY_BYTES].copy_from_slice(&entry.0.to_be_bytes());
    }

    /// The L2 tables of the entries from `first` on: the index of the entry, and the table's offset in the file.
    pub(super) fn tables_from(&self, first: u64) -> impl Iterator<Item = (u64, u64)> {
        let entries = self.pages_from(first / PAGE_ENTRIES).flat_map(move |(start, page)| {
            (first.max(start)..start + PAGE_ENTRIES).map(move |index| (index, entry(page, index - start)))
        });
        entries.filter_map(|(index, entry)| Some((index, entry.l2_offset()?)))
    }

    /// Those pages from number `first` on that are not empty, each with the index of its first entry.
    fn pages_from(&self, first: u64) -> impl Iterator<Item = (u64, &[u8; PAGE_BYTES])> {
        let pages = self.0.iter().skip(to_index(first));
        (first..).zip(pages).filter_map(|(number, page)| Some((number * PAGE_ENTRIES, page.as_deref()?)))
    }

    /// The first `entries` entries as they stand in a file.
    pub(super) fn to_bytes(&self, entries: u32) -> Vec<u8> {
        let mut bytes = vec![0; place(entries.into())];
        for (start, page) in self.pages_from(0) {
            let rest = &mut bytes[place(start)..];
            let length = rest.len().min(PAGE_BYTES);
            rest[..length].copy_from_slice(&page[..length]);
        }
        bytes
    }
}

/// Where an entry stands in bytes that begin with entry 0.
fn place(index: u64) -> usize {
    to_index(index * ENTRY_BYTES as u64)
}

fn entry(bytes: &[u8], index: u64) -> L1Entry {
    L1Entry(u64::from_be_bytes(bytes[place(index)..][..ENTRY_BYTES].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn tables_are_found_from_anywhere() {
        let mut l1 = L1Table::default();
        let places = [0, 7, 8, 9, 40, 63, 64, 400];
        for index in places {
            l1.set(index, L1Entry::owned((index + 1) << 16));
        }
        // A flag alone is not a table.
        l1.set(50, L1Entry(1 << 63));
        for first in 0..=401 {
            let expected: Vec<(u64, u64)> =
                places.into_iter().filter(|at| *at >= first).map(|at| (at, (at + 1) << 16)).collect();
            assert_eq!(l1.tables_from(first).collect::<Vec<_>>(), expected, "{first}");
        }
        assert_eq!((l1.get(9), l1.get(10), l1.get(1 << 40)), (L1Entry::owned(10 << 16), L1Entry(0), L1Entry(0)));
    }

    proptest! {
        #[test]
        fn it_is_the_table_that_it_was_made_of(
            read in vec((0..300usize, any::<u64>()), 0..20),
            set in vec((0..400u64, any::<u64>()), 0..20),
        ) {
            let mut entries = vec![0u64; 400];
            read.iter().for_each(|(index, entry)| entries[*index] = *entry);
            let bytes: Vec<u8> = entries[..300].iter().flat_map(|entry| entry.to_be_bytes()).collect();
            let mut storage = MemoryStorage { devices: vec![bytes] };
            let mut l1 = L1Table::read(&mut storage, 0, DeviceId(0), 0, 300).unwrap_or_else(|_| panic!("reads"));
            for (index, entry) in set {
                l1.set(index, L1Entry(entry));
                entries[to_index(index)] = entry;
            }
            prop_assert!((0..400).all(|index| l1.get(index) == L1Entry(entries[to_index(index)])));
            let tables: Vec<(u64, u64)> =
                (0..).zip(&entries).filter_map(|(index, entry)| Some((index, L1Entry(*entry).l2_offset()?))).collect();
            for first in [0, 1, 63, 64, 299, 300, 399, 400] {
                let expected: Vec<(u64, u64)> = tables.iter().copied().filter(|(index, _)| *index >= first).collect();
                prop_assert_eq!(l1.tables_from(first).collect::<Vec<_>>(), expected);
            }
            let written: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            prop_assert_eq!(l1.to_bytes(400), written);
        }
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        let mut bytes = vec![0; 64 + 150 * 8];
        bytes[64 + 8 * 5 + 7] = 1;
        bytes[64 + 8 * 149] = 0x80;
        let mut storage = MemoryStorage { devices: vec![bytes.clone()] };
        let l1 = L1Table::read(&mut storage, 0, DeviceId(0), 64, 150).unwrap_or_else(|_| panic!("reads"));
        assert_eq!(l1.pages_from(0).map(|(start, _)| start).collect::<Vec<_>>(), [0, 128]);
        assert_eq!(l1.to_bytes(150), bytes[64..]);
        assert!(L1Table::read(&mut storage, 0, DeviceId(0), 64, 151).is_err());
        assert!(L1Table::read(&mut storage, 0, DeviceId(0), u64::MAX, 1).is_err());
    }
}
