//! Page tables: four levels, one to one, user pages only, never writable and executable at once. The tables lie in memory
//! that they do not map.

use std::collections::BTreeMap;

use instar_abi::memory::{LARGE_PAGE_BYTES, PAGE_BYTES, TABLES_END, TABLES_START};

use super::error::VmError;
use super::layout::Access;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty, set in advance so that the processor has nothing to write into the tables.
const TOUCHED: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ENTRIES: usize = 512;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

fn bits(access: Access) -> u64 {
    PRESENT
        | USER
        | TOUCHED
        | match access {
            Access::Read => NO_EXECUTE,
            Access::ReadExecute => 0,
            Access::ReadWrite => WRITABLE | NO_EXECUTE,
        }
}

/// Page tables under construction.
#[derive(Debug)]
pub(crate) struct PageTables {
    tables: BTreeMap<u64, Box<[u64; ENTRIES]>>,
    next: u64,
}

impl PageTables {
    /// Tables that map nothing.
    pub(crate) fn new() -> Self {
        let mut tables = BTreeMap::new();
        tables.insert(TABLES_START, Box::new([0; ENTRIES]));
        Self { tables, next: TABLES_START + PAGE_BYTES }
    }

    /// The address for CR3.
    pub(crate) fn root() -> u64 {
        TABLES_START
    }

    /// Maps `start..end`, both multiples of the page size; large pages are used where both the place and the rest allow.
    ///
    /// # Errors
    /// [`VmError::Config`] where a page is mapped twice, an address is no multiple of the page size, or there is no more
    /// room for tables.
    pub(crate) fn map(&mut self, start: u64, end: u64, access: Access) -> Result<(), VmError> {
        if !start.is_multiple_of(PAGE_BYTES) || !end.is_multiple_of(PAGE_BYTES) || end >= 1 << 47 {
            return Err(VmError::Config(format!("cannot map {start:#x}..{end:#x}")));
        }
        let mut address = start;
        while address < end {
            let large = address.is_multiple_of(LARGE_PAGE_BYTES) && end - address >= LARGE_PAGE_BYTES;
            let (level, bits, step) =
                if large { (1, bits(access) | LARGE, LARGE_PAGE_BYTES) } else { (0, bits(access), PAGE_BYTES) };
            let mut table = TABLES_START;
            for above in (level + 1..4).rev() {
                table = self.descend(table, index(address, above))?;
            }
            let entry = self.entry(table, index(address, level))?;
            if *entry != 0 {
                return Err(VmError::Config(format!("{address:#x} is mapped twice")));
            }
            *entry = address | bits;
            address += step;
        }
        Ok(())
    }

    /// The tables with their addresses.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        self.tables
            .iter()
            .map(|(address, table)| (*address, table.iter().flat_map(|entry| entry.to_le_bytes()).collect()))
    }

    fn entry(&mut self, table: u64, index: usize) -> Result<&mut u64, VmError> {
        self.tables
            .get_mut(&table)
            .and_then(|entries| entries.get_mut(index))
            .ok_or_else(|| VmError::Config(format!("no page table at {table:#x}")))
    }

    fn descend(&mut self, table: u64, index: usize) -> Result<u64, VmError> {
        let next = self.next;
        let entry = self.entry(table, index)?;
        if *entry & LARGE != 0 {
            return Err(VmError::Config("a small page inside a large one".into()));
        }
        if *entry != 0 {
            return Ok(*entry & ADDRESS);
        }
        if next >= TABLES_END {
            return Err(VmError::Config("no more room for page tables".into()));
        }
        *entry = next | PRESENT | WRITABLE | USER | 1 << 5;
        self.tables.insert(next, Box::new([0; ENTRIES]));
        self.next += PAGE_BYTES;
        Ok(next)
    }
}

/// The index into the table of a level (0: pages, 3: the root) for an address.
fn index(address: u64, level: u32) -> usize {
    // Nine bits: fits any usize.
    (address >> (12 + 9 * level) & 0x1ff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the processor does.
    fn walk(tables: &PageTables, address: u64) -> Option<u64> {
        let mut table = PageTables::root();
        for level in (0..4).rev() {
            let entry = tables.tables[&table][index(address, level)];
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & LARGE != 0 {
                return Some(entry);
            }
            table = entry & ADDRESS;
        }
        unreachable!("level 0 returns")
    }

    #[test]
    fn maps_one_to_one_with_the_access_asked_for() {
        let mut tables = PageTables::new();
        tables.map(0x20_0000, 0x20_3000, Access::ReadExecute).expect("map");
        tables.map(0x20_3000, 0x20_4000, Access::Read).expect("map");
        tables.map(0x120_0000, 0x160_0000, Access::ReadWrite).expect("map");
        let text = walk(&tables, 0x20_2fff).expect("mapped");
        assert_eq!((text & ADDRESS, text & (WRITABLE | NO_EXECUTE)), (0x20_2000, 0));
        assert_eq!(walk(&tables, 0x20_3000).expect("mapped") & (WRITABLE | NO_EXECUTE), NO_EXECUTE);
        let heap = walk(&tables, 0x140_0123).expect("mapped");
        assert_eq!(heap & (WRITABLE | NO_EXECUTE | LARGE), WRITABLE | NO_EXECUTE | LARGE);
        for address in [0, TABLES_START, 0x1f_ffff, 0x20_4000, 0x160_0000, 1 << 46] {
            assert_eq!(walk(&tables, address), None, "{address:#x}");
        }
    }

    #[test]
    fn there_is_room_for_the_tables_of_the_largest_machine() {
        use instar_abi::memory::{HEAP_START, JOB_START, MAX_MEMORY_BYTES, PROGRAM_END, PROGRAM_START, STACK_END};
        use instar_abi::mmio::{CONTROL_START, DEVICE_END};
        let mut tables = PageTables::new();
        // With a hole in each part, so that nowhere a large page does.
        let large_page = usize::try_from(LARGE_PAGE_BYTES).expect("small");
        for start in (PROGRAM_START..PROGRAM_END).step_by(large_page) {
            tables.map(start + PAGE_BYTES, start + LARGE_PAGE_BYTES, Access::ReadExecute).expect("room");
        }
        for start in (JOB_START..STACK_END).step_by(large_page) {
            tables.map(start, start + PAGE_BYTES, Access::ReadWrite).expect("room");
        }
        tables.map(HEAP_START, MAX_MEMORY_BYTES, Access::ReadWrite).expect("room");
        tables.map(CONTROL_START, DEVICE_END, Access::ReadWrite).expect("room");
    }

    #[test]
    fn no_page_is_mapped_twice() {
        let mut tables = PageTables::new();
        tables.map(0x20_0000, 0x20_1000, Access::ReadExecute).expect("map");
        assert!(tables.map(0x20_0000, 0x20_1000, Access::ReadWrite).is_err());
        assert!(tables.map(0x20_0000, 0x40_0000, Access::ReadWrite).is_err());
    }
}
