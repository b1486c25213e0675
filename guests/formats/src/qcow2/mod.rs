//! The qcow2 format, versions 2 and 3: header, extensions, tables, snapshots and bitmaps as typed values.
//! Source: the format document qcow2.txt; limits that are qemu-img's own say so.

pub mod bitmap;
pub mod encode;
pub mod entry;
pub mod error;
pub mod extension;
pub mod feature;
pub mod geometry;
pub mod header;
mod parse;
pub mod refcount;
pub mod snapshot;

pub use encode::{EncodeError, FirstCluster, Layout, encode_first_cluster, encode_first_cluster_as};
pub use error::HeaderError;
pub use extension::{BitmapsPointer, CryptoHeaderPointer, Extensions, UnknownExtension};
pub use feature::{FeatureKind, FeatureName};
pub use header::{Access, CompressionType, CryptMethod, Header};

#[cfg(test)]
mod tests;
