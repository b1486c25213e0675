//! Carries plans out: reads and writes images through [`Storage`], which is a virtio driver in the sandbox, a memory disk
//! in tests and a recording disk in the crash harness. Knows nothing of files, names or the host.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod blocks;
mod bytes;
pub mod commit;
mod compare;
mod compare_base;
mod crypt;
mod digest;
pub mod info;
pub mod job;
pub mod layer;
pub mod map;
pub mod memory;
pub mod open;
pub mod pack;
pub mod parallels;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
mod reader;
pub mod rebase;
pub mod recording;
pub mod repairs;
pub mod report;
pub mod storage;
mod tally;
pub mod target;
pub mod transfer;
pub mod unpack;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
mod windows;

pub use instar_plan::extent::{Codec, CompressedSource};
pub use storage::{CompareSegment, CopySegment, DeviceId, Operation, Storage, StorageError, UnpackSegment, Verdict};
