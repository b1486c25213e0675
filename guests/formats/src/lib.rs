//! Image formats: bytes to typed metadata and back. No I/O: callers bring the bytes and say where they came from.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod bytes;
pub mod luks;
pub mod parallels;
pub mod probe;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
