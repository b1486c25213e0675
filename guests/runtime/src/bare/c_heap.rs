//! The heap for a library that would ask a C library for memory: zlib-rs, which makes a buffer for each stream.
//!
//! Whoever gives memory back does not say how much it was, so that stands in front of it.
#![expect(unsafe_code, reason = "these functions are defined by pointers")]

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;

/// "Cannot allocate memory".
const ENOMEM: i32 = 12;
/// What is in front of every block: its length, and room, so that the block is aligned as no more is ever asked for.
const FRONT_BYTES: usize = 64;

fn layout(length: usize) -> Option<Layout> {
    Layout::from_size_align(length.checked_add(FRONT_BYTES)?, FRONT_BYTES).ok()
}

/// Allocates.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut u8, alignment: usize, length: usize) -> i32 {
    let Some(layout) = layout(length).filter(|_| alignment <= FRONT_BYTES) else { return ENOMEM };
    // SAFETY: the layout is not empty.
    let front = unsafe { alloc(layout) };
    if front.is_null() {
        return ENOMEM;
    }
    // SAFETY: the block begins with room for a length and is aligned for it.
    unsafe { front.cast::<usize>().write(length) };
    // SAFETY: the block is longer than that; the caller vouches for `place`.
    unsafe { place.write(front.add(FRONT_BYTES)) };
    0
}

/// Gives back.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(block: *mut u8) {
    if block.is_null() {
        return;
    }
    // SAFETY: the caller vouches that `posix_memalign` has returned the block, which left so much in front of it.
    let front = unsafe { block.sub(FRONT_BYTES) };
    // SAFETY: and the length there.
    let length = unsafe { front.cast::<usize>().read() };
    if let Some(layout) = layout(length) {
        // SAFETY: with this layout it was allocated.
        unsafe { dealloc(front, layout) };
    }
}
