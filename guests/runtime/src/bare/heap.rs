//! The heap: everything from the end of the stack's guard to the end of memory. Devices reach all of it.
#![expect(clippy::cast_possible_truncation, reason = "a pointer is 64 bits wide here")]
#![expect(unsafe_code, reason = "an allocator is made of pointers")]

use core::alloc::{GlobalAlloc, Layout};

use instar_abi::memory::HEAP_START;
use talc::TalcCell;
use talc::source::Manual;

/// The allocator, made shareable.
struct Heap(TalcCell<Manual>);

// SAFETY: there is one processor and nothing ever interrupts it, so no two calls overlap.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

/// Gives the heap its memory, from `heap_start` to the end. Called once, before anything is allocated.
pub(super) fn start(heap_start: u64, memory_bytes: u64) {
    assert!(heap_start >= HEAP_START, "a heap in other memory");
    let length = usize::try_from(memory_bytes.saturating_sub(heap_start)).unwrap_or(0);
    let start = core::ptr::with_exposed_provenance_mut(heap_start as usize);
    // SAFETY: the host maps this memory for reading and writing, and nothing else uses it.
    let heap = unsafe { HEAP.0.claim(start, length) };
    assert!(heap.is_some(), "there is no memory for a heap");
}

// SAFETY: passes every call on to an allocator that keeps the rules.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of this very function.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of this very function.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the rules of this very function.
        unsafe { self.0.realloc(pointer, layout, new_size) }
    }
}
