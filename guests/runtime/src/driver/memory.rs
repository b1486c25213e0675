//! Memory that driver and device share: never seen as a Rust slice, for the device changes it behind the compiler's back.
//! It does so only during a doorbell, so plain copies are enough: the block's address is exposed, and the compiler must
//! expect the doorbell to change it.
#![expect(unsafe_code, reason = "memory that somebody else writes to has no safe interface")]

use alloc::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use core::ptr::{self, NonNull};

use instar_abi::wire::Wire;

/// Alignment of every block: enough for each part of a queue.
const ALIGN_BYTES: usize = 16;
/// The longest structure that goes through shared memory.
const MAX_WIRE_BYTES: usize = 64;

/// A block of memory that stays where it is.
#[derive(Debug)]
pub(super) struct SharedMemory {
    start: NonNull<u8>,
    layout: Layout,
}

impl SharedMemory {
    /// A block of `length_bytes`, which is not zero, filled with zeros.
    pub(super) fn zeroed(length_bytes: usize) -> Self {
        // SAFETY: the layout's size is not zero.
        Self::allocate(length_bytes, |layout| unsafe { alloc_zeroed(layout) })
    }

    /// A block of `length_bytes`, which is not zero, for data: nothing is read from it that was not written before, by
    /// driver or device. Its pages are not touched before they are needed.
    pub(super) fn for_data(length_bytes: usize) -> Self {
        // SAFETY: the layout's size is not zero.
        Self::allocate(length_bytes, |layout| unsafe { alloc(layout) })
    }

    fn allocate(length_bytes: usize, allocate: impl FnOnce(Layout) -> *mut u8) -> Self {
        assert!(length_bytes > 0, "an empty block");
        let layout = Layout::from_size_align(length_bytes, ALIGN_BYTES).expect("no block is nearly as long as memory");
        match NonNull::new(allocate(layout)) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    /// The block's address, or that of a byte in it.
    pub(super) fn address(&self, offset: usize) -> u64 {
        self.start.as_ptr().expose_provenance() as u64 + offset as u64
    }

    /// The block's length in bytes.
    pub(super) fn length_bytes(&self) -> usize {
        self.layout.size()
    }

    /// Writes bytes.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = self.place(offset, bytes.len());
        // SAFETY: `place` checked that the range lies in the block, which is ours; the device is not at work while the
        // processor runs, so nothing else accesses the block.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
    }

    /// Reads bytes.
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        let place = self.place(offset, bytes.len());
        // SAFETY: `place` checked that the range lies in the block, which is ours; the device is not at work while the
        // processor runs, so nothing else accesses the block.
        unsafe { ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Writes a structure.
    pub(super) fn put<T: Wire>(&self, offset: usize, value: &T) {
        let mut bytes = [0; MAX_WIRE_BYTES];
        value.put(&mut bytes);
        self.write(offset, &bytes[..T::SIZE_BYTES]);
    }

    /// Reads a structure.
    pub(super) fn get<T: Wire>(&self, offset: usize) -> T {
        let mut bytes = [0; MAX_WIRE_BYTES];
        self.read(offset, &mut bytes[..T::SIZE_BYTES]);
        T::get(&bytes)
    }

    fn place(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.layout.size()), "shared memory out of range");
        // SAFETY: the offset is at most the block's length.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with this layout and is freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
