//! The vdi format: a header, one flat block map, and blocks of 1 MiB. All integers are little-endian.
//! Source: VirtualBox's public description of its disk images (header 1.1); limits that are qemu-img's own say so.

mod error;
mod header;

pub use error::VdiError;
pub use header::{BLOCKS_ALLOCATED_OFFSET, HEADER_BYTES, Header};

/// Length of a block in bytes, as the only one that qemu-img takes.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// The bytes of an entry of the block map.
pub const ENTRY_BYTES: u64 = 4;
/// The entry of a block that does not exist.
pub const UNALLOCATED: u32 = u32::MAX;
/// The entry of a block that was given up and reads as zeros. All entries below are numbers of blocks in the file.
pub const DISCARDED: u32 = u32::MAX - 1;
