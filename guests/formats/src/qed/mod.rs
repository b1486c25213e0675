//! The qed format: a header, one L1 table, L2 tables and clusters, all counted in clusters; no refcounts.
//! Source: the QED image format specification. All integers are little-endian.

mod error;
mod header;

pub use error::QedError;
pub use header::{
    AUTOCLEAR_OFFSET, BACKING_NAME_BYTES_MAX, Geometry, HEADER_BYTES, Header, IMAGE_SIZE_OFFSET, TABLES_MAX, feature,
};

/// The bytes of an L1 or L2 entry.
pub const ENTRY_BYTES: u64 = 8;
/// The L2 entry of a cluster that reads as zeros.
pub const ZERO_CLUSTER: u64 = 1;
