//! What a guest program stands on: the virtio driver, and below it, only in a program without an operating system, entry,
//! heap, panic handler and memory functions. The only place of the sandbox with `unsafe` in it.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[macro_use]
extern crate instar_abi;

#[cfg(feature = "bare")]
pub mod bare;
pub mod driver;

pub use driver::{Transport, VirtioStorage};
