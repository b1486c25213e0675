//! The sandbox's memory: a low part that only the host and the guest's page tables reach, and the heap, which devices
//! reach too. Pages come from the host when they are first touched.
#![expect(unsafe_code, reason = "parts of a mapping and advice on memory have no safe interface")]

use instar_abi::memory::{HEAP_START, LARGE_PAGE_BYTES, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES, PROGRAM_START, STACK_END};
use std::io;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::error::VmError;

/// How much of the heap is made of pages of the usual size, at its start and again at its end, where the allocator has a mark.
const SMALL_PAGES_BYTES: u64 = 2 * LARGE_PAGE_BYTES;

/// Memory that devices may reach.
pub type DmaMemory = GuestMemoryMmap<()>;

/// All memory of one sandbox.
#[derive(Debug)]
pub struct GuestRam {
    // In the order of dropping: the parts go before the mapping that they are parts of.
    low: GuestMemoryMmap<()>,
    heap: DmaMemory,
    /// From the program to the end of the heap. KVM takes it in one piece: every further one costs it a tenth of a millisecond. No
    /// page maps the guard between the parts.
    whole: MmapRegion<()>,
    size_bytes: u64,
}

/// A contiguous piece of host memory that stands behind guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) guest_address: u64,
    pub(crate) host_address: u64,
    pub(crate) length_bytes: u64,
}

impl Slot {
    /// First guest address behind it.
    pub(crate) fn end(self) -> u64 {
        self.guest_address + self.length_bytes
    }
}

impl GuestRam {
    /// Makes memory that ends at `size_bytes`, a multiple of 2 MiB.
    ///
    /// # Errors
    /// [`VmError::Config`] where the size is out of range; [`VmError::Setup`] where the host has no such memory.
    pub fn new(size_bytes: u64) -> Result<Self, VmError> {
        Self::with_flags(size_bytes, libc::MAP_PRIVATE)
    }

    /// The same that a process shares with those forked from it.
    ///
    /// # Errors
    /// As [`GuestRam::new`].
    pub(crate) fn shared(size_bytes: u64) -> Result<Self, VmError> {
        Self::with_flags(size_bytes, libc::MAP_SHARED)
    }

    fn with_flags(size_bytes: u64, sharing: i32) -> Result<Self, VmError> {
        if !(MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&size_bytes) || !size_bytes.is_multiple_of(LARGE_PAGE_BYTES)
        {
            return Err(VmError::Config(format!(
                "a memory of {size_bytes} bytes is not a multiple of 2 MiB from {MIN_MEMORY_BYTES} to {MAX_MEMORY_BYTES} bytes"
            )));
        }
        let none = |why: String| VmError::setup("no memory for the guest", io::Error::other(why));
        let flags = libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | sharing;
        let mapping = |length_bytes| {
            MmapRegionBuilder::new(to_usize(length_bytes))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(flags)
        };
        let whole = mapping(size_bytes - PROGRAM_START).build().map_err(|error| none(error.to_string()))?;
        let part = |start: u64, end: u64| -> Result<GuestMemoryMmap<()>, VmError> {
            let place = whole.as_ptr().wrapping_add(to_usize(start - PROGRAM_START));
            // SAFETY: the part lies in `whole`, which is there for longer.
            let mapping = unsafe { mapping(end - start).with_raw_mmap_pointer(place) }.build();
            let mapping = mapping.map_err(|error| none(error.to_string()))?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(start))
                .ok_or_else(|| none("it leaves the addresses that there are".to_owned()))?;
            GuestMemoryMmap::from_regions(vec![region]).map_err(|error| none(error.to_string()))
        };
        let (low, heap) = (part(PROGRAM_START, STACK_END)?, part(HEAP_START, size_bytes)?);
        let ram = Self { low, heap, whole, size_bytes };
        ram.advise();
        Ok(ram)
    }

    /// Has pages of this program stand behind guest memory that nobody has used yet, for reading alone; they stay where they are in
    /// this program as well. Where that cannot be, before Linux 5.13 or if the program was not read from a file, nothing happens, and
    /// the answer is no.
    ///
    /// The pages start and end where pages do, do not start with zeros, and lie in the part that devices cannot reach.
    pub(crate) fn lend(&self, pages: Slot) -> bool {
        let length = to_usize(pages.length_bytes);
        let from = std::ptr::with_exposed_provenance_mut::<libc::c_void>(to_usize(pages.host_address));
        let place = self.place(pages.guest_address);
        let moving = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the caller vouches for these bytes, which are there for as long as this program.
        let start = || unsafe { from.cast::<u64>().read_volatile() };
        let before = start();
        // SAFETY: what is taken from the one place comes back there from the program's file at the next touch, or is given back below;
        // the other place lies in the mapping, and goes with it.
        if unsafe { libc::mremap(from, length, length, moving | libc::MREMAP_DONTUNMAP, place) } != place {
            return false;
        }
        if start() == before {
            return true;
        }
        // SAFETY: puts back what was taken.
        unsafe { libc::mremap(place, length, length, moving, from) };
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the place lies in the mapping, and there is nothing now.
        unsafe { libc::mmap(place, length, access, kind | libc::MAP_NORESERVE | libc::MAP_FIXED, -1, 0) };
        false
    }

    /// Says how the heap is going to be used. A guest that has much to do touches most of it, and each page that is touched for the
    /// first time costs an exit; one of 2 MiB stands for 512. It is made slowly, though, where this system's own memory is made
    /// when it is first touched, so small jobs go without. What is said here is advice: not every system takes it.
    fn advise(&self) {
        let rest = HEAP_START + SMALL_PAGES_BYTES;
        self.advise_on(rest, self.size_bytes - SMALL_PAGES_BYTES - rest, libc::MADV_HUGEPAGE);
    }

    /// Makes the pages of the heap's first `length_bytes` in one go: those that every job of a program uses.
    pub(crate) fn make_heap(&self, length_bytes: u64) {
        self.advise_on(HEAP_START, length_bytes.min(SMALL_PAGES_BYTES), libc::MADV_POPULATE_WRITE);
    }

    fn advise_on(&self, start: u64, length_bytes: u64, advice: i32) {
        let place = self.place(start);
        // SAFETY: the range lies in the mapping, and none of the advice given here changes what it holds.
        unsafe { libc::madvise(place, to_usize(length_bytes), advice) };
    }

    /// Where a guest address lies in this process.
    fn place(&self, address: u64) -> *mut libc::c_void {
        self.whole.as_ptr().wrapping_add(to_usize(address - PROGRAM_START)).cast()
    }

    /// Where the memory ends.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The part that devices may reach.
    #[must_use]
    pub fn dma(&self) -> &DmaMemory {
        &self.heap
    }

    /// Writes to the part that devices cannot reach.
    pub(crate) fn write_low(&self, address: u64, bytes: &[u8]) -> Result<(), VmError> {
        self.low
            .write_slice(bytes, GuestAddress(address))
            .map_err(|error| VmError::setup("writing guest memory", io::Error::other(error.to_string())))
    }

    /// Reads from the part that devices cannot reach.
    pub(crate) fn read_low(&self, address: u64, bytes: &mut [u8]) -> Result<(), VmError> {
        self.low
            .read_slice(bytes, GuestAddress(address))
            .map_err(|error| VmError::setup("reading guest memory", io::Error::other(error.to_string())))
    }

    /// Reads a little-endian word from the part that devices cannot reach.
    pub(crate) fn read_low_u64(&self, address: u64) -> Result<u64, VmError> {
        let mut bytes = [0; 8];
        self.read_low(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Keeps the memory out of core files and away from processes that are forked from now on: whatever a guest works on,
    /// keys among it, is nobody else's business.
    pub(crate) fn keep_to_this_process(&self) {
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            self.advise_on(PROGRAM_START, self.size_bytes - PROGRAM_START, advice);
        }
    }

    /// All of it, as the machine is given it.
    pub(crate) fn slot(&self) -> Slot {
        Slot {
            guest_address: PROGRAM_START,
            host_address: self.whole.as_ptr().expose_provenance() as u64,
            length_bytes: self.size_bytes - PROGRAM_START,
        }
    }
}

/// A length or an address of this process.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_cannot_reach_low_memory() {
        let ram = GuestRam::new(MIN_MEMORY_BYTES).expect("memory");
        let mut byte = [0];
        for address in [instar_abi::memory::TABLES_START, PROGRAM_START, STACK_END - 1] {
            assert!(ram.dma().read_slice(&mut byte, GuestAddress(address)).is_err(), "{address:#x}");
            assert!(ram.read_low(address, &mut byte).is_ok(), "{address:#x}");
        }
        for address in [STACK_END, HEAP_START - 1] {
            assert!(ram.dma().read_slice(&mut byte, GuestAddress(address)).is_err(), "{address:#x}");
            assert!(ram.read_low(address, &mut byte).is_err(), "{address:#x}");
        }
        assert!(ram.dma().read_slice(&mut byte, GuestAddress(HEAP_START)).is_ok());
        assert!(ram.dma().read_slice(&mut byte, GuestAddress(MIN_MEMORY_BYTES)).is_err());
    }

    #[test]
    fn what_is_lent_is_in_both_places() {
        let program = crate::program::codec();
        let host_address = program.as_ptr().expose_provenance() as u64;
        let pages = Slot { guest_address: PROGRAM_START, host_address, length_bytes: 8 * 4096 };
        let ram = GuestRam::new(MIN_MEMORY_BYTES).expect("memory");
        let before = program[..8 * 4096].to_vec();
        assert!(ram.lend(pages));
        let mut lent = vec![0; 8 * 4096];
        ram.read_low(PROGRAM_START, &mut lent).expect("read");
        assert!(lent == before && program[..8 * 4096] == before);
        // Behind it there is memory as ever.
        ram.write_low(PROGRAM_START + 8 * 4096, b"data").expect("write");
    }

    #[test]
    fn what_comes_from_no_file_is_not_lent() {
        let own = GuestRam::new(MIN_MEMORY_BYTES).expect("memory");
        own.write_low(PROGRAM_START, &[7; 2 * 4096]).expect("write");
        let ram = GuestRam::new(MIN_MEMORY_BYTES).expect("memory");
        assert!(!ram.lend(Slot { length_bytes: 2 * 4096, ..own.slot() }));
        let mut kept = vec![0; 2 * 4096];
        own.read_low(PROGRAM_START, &mut kept).expect("read");
        assert!(kept == [7; 2 * 4096]);
        ram.write_low(PROGRAM_START, b"data").expect("write");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size_bytes in
            [0, 1, MIN_MEMORY_BYTES - 1, MIN_MEMORY_BYTES + 4096, MAX_MEMORY_BYTES + LARGE_PAGE_BYTES, u64::MAX]
        {
            assert!(matches!(GuestRam::new(size_bytes), Err(VmError::Config(_))), "{size_bytes}");
        }
    }
}
