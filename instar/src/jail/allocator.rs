//! The C library's allocator, made to work without files: one that gives every thread an arena of its own reads a file under
//! /proc when it gives memory back, which ends a jailed process.
#![expect(unsafe_code, reason = "the C library's allocator has no safe interface for its settings")]

/// Has all threads share one arena. To be called before there are others.
#[cfg(target_env = "gnu")]
pub(super) fn share() {
    // SAFETY: changes a number that is looked at when a thread asks for memory for the first time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub(super) fn share() {}
