//! The vhdx format: two headers, region tables, metadata items, and a block table. All integers are little-endian.
//! Source: MS-VHDX, "Virtual Hard Disk v2 (VHDX) File Format".

mod checksum;
mod entry;
mod error;
mod head;
mod metadata;
mod region;

pub use entry::BlockEntry;
pub use error::VhdxError;
pub use head::{HEAD_BYTES, HEAD_OFFSETS, Head, current};
pub use metadata::{METADATA_BYTES_MAX, Metadata};
pub use region::{REGION_OFFSETS, REGION_TABLE_BYTES, Region, Regions};

/// What the file begins with.
pub const SIGNATURE: &[u8] = b"vhdxfile";
/// The bytes of an entry of the block table.
pub const ENTRY_BYTES: u64 = 8;
/// Blocks, regions and the log begin at multiples of this.
pub const ALIGNMENT_BYTES: u64 = 1 << 20;

/// A GUID in its stored form.
pub type Guid = [u8; 16];
