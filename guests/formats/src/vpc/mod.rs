//! The vpc (VHD) format: a footer; for growing disks also its copy at the file's start, a header, a flat block table, and
//! blocks with a bitmap of sectors before the data. All integers are big-endian.
//! Source: "Virtual Hard Disk Image Format Specification" 1.0 (Microsoft); limits that are qemu-img's own say so.

mod error;
mod footer;
mod sparse;

pub use error::VpcError;
pub use footer::{COOKIE, FOOTER_BYTES, Footer, Kind};
pub use sparse::{SPARSE_HEADER_BYTES, SparseHeader};

/// Everything in a growing disk's file begins at a multiple of this.
pub const SECTOR_BYTES: u64 = 512;
/// The bytes of an entry of the block table.
pub const ENTRY_BYTES: u64 = 4;
/// The entry of a block that does not exist. All others are the sector where the block begins.
pub const UNALLOCATED: u32 = u32::MAX;
