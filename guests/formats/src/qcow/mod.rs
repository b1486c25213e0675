//! The qcow format, version 1: a header, one L1 table, L2 tables and clusters; no refcounts. All integers are big-endian.
//! Source: "The QCOW Image Format" (M. McLoughlin); limits that are qemu-img's own say so.

mod entry;
mod error;
mod header;

pub use entry::Entry;
pub use error::QcowError;
pub use header::{Geometry, HEADER_BYTES, Header};

/// The bytes of an L1 or L2 entry.
pub const ENTRY_BYTES: u64 = 8;
