//! The vmdk format: sparse extent headers, descriptors, grain tables and content identifiers as typed values.
//! Source: "Virtual Disk Format 5.0" (VMware technical note); limits that are qemu-img's own say so.

pub mod cid;
pub mod descriptor;
pub mod entry;
pub mod error;
mod extent_line;
pub mod geometry;
pub mod header;
mod parent;

pub use cid::Cid;
pub use descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor};
pub use entry::GrainEntry;
pub use error::VmdkError;
pub use extent_line::{ExtentKind, ExtentLine};
pub use geometry::Geometry;
pub use header::{Compression, SparseHeader};
pub use parent::{PARENT_NAME_BYTES_MAX, with_parent};

/// Everything in a vmdk file is counted in sectors of this many bytes.
pub const SECTOR_BYTES: u64 = 512;
