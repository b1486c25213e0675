//! What can be wrong with a qcow header, in the words that users of this kind of tool know.

use core::fmt;

/// A header that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QcowError {
    /// Another magic, or a file shorter than a header.
    NotQcow,
    /// A version other than 1.
    Version(u32),
    /// A disk of less than two bytes.
    TooSmall,
    /// Clusters below 512 bytes or above 64 KiB.
    ClusterSize,
    /// L2 tables below 512 bytes or above 64 KiB.
    TableSize,
    /// A method of encryption that does not exist.
    Encryption,
    /// A disk that no L1 table can describe.
    TooLarge,
    /// More L2 tables than [`super::header::TABLES_MAX`].
    TooManyTables,
    /// A backing name of more than 1023 bytes.
    BackingName,
}

impl fmt::Display for QcowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotQcow => f.write_str("Image not in qcow format"),
            Self::Version(version) => write!(f, "qcow (v1) does not support qcow version {version}"),
            Self::TooSmall => f.write_str("Image size is too small (must be at least 2 bytes)"),
            Self::ClusterSize => f.write_str("Cluster size must be between 512 and 64k"),
            Self::TableSize => f.write_str("L2 table size must be between 512 and 64k"),
            Self::Encryption => f.write_str("invalid encryption method in qcow header"),
            Self::TooLarge => f.write_str("Image too large"),
            Self::TooManyTables => f.write_str("the qcow image has more L2 tables than can be held in memory"),
            Self::BackingName => f.write_str("Backing file name too long"),
        }
    }
}

impl core::error::Error for QcowError {}
