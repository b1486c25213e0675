//! Commit and rebase as pure planners: typed metadata in, steps out. No I/O, no devices, no clock.
//!
//! `extent` is the common language: ranges of a disk and where their bytes come from. `commit` says how extents get into
//! a target, `empty` how an overlay forgets what its base has received, `rebase` what an overlay needs before it can be
//! based on another file, `repair` what refcounts have to become.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod commit;
pub mod empty;
pub mod extent;
pub mod rebase;
pub mod repair;
