//! The parallels format, version 2: a header, a flat catalogue, and clusters. All integers are little-endian.
//! Source: "Parallels Expandable Image File Format" (public description); limits that are qemu-img's own say so.

mod error;
mod header;

pub use error::ParallelsError;
pub use header::{HEADER_BYTES, Header};

/// The bytes of an entry of the catalogue, which lies right behind the header. 0 is a cluster that does not exist.
pub const ENTRY_BYTES: u64 = 4;
