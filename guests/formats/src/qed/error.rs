//! What can be wrong with a qed header, in the words that users of this kind of tool know.

use core::fmt;

/// A header that no image can have, or that nobody here understands. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QedError {
    /// Another magic, or a file shorter than a header.
    NotQed,
    /// Feature bits that are not known.
    Features(u64),
    /// Not a power of two from 4 KiB to 64 MiB.
    ClusterSize(u32),
    /// Not a power of two from 1 to 16.
    TableSize(u32),
    /// No header, or one that is longer than 2^32 bytes.
    HeaderSize(u32),
    /// Not a multiple of 512, or more than the tables can describe.
    ImageSize(u64),
    /// An L1 table that does not begin at a cluster behind the header.
    L1Offset(u64),
    /// A backing name outside of the header, or longer than 1023 bytes.
    BackingName,
    /// More L2 tables than [`super::header::TABLES_MAX`].
    TooManyTables,
}

impl fmt::Display for QedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotQed => f.write_str("Image not in QED format"),
            Self::Features(bits) => write!(f, "Unsupported QED features: {bits:x}"),
            Self::ClusterSize(_) => f.write_str("QED cluster size is invalid"),
            Self::TableSize(_) => f.write_str("QED table size is invalid"),
            Self::HeaderSize(_) => f.write_str("QED header size is invalid"),
            Self::ImageSize(_) => f.write_str("QED image size is invalid"),
            Self::L1Offset(_) => f.write_str("QED table offset is invalid"),
            Self::BackingName => f.write_str("QED backing file name is invalid"),
            Self::TooManyTables => f.write_str("the QED image has more L2 tables than can be held in memory"),
        }
    }
}

impl core::error::Error for QedError {}
