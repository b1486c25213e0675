//! What can be wrong with a vhdx file.

use core::fmt;

/// A file that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhdxError {
    /// Another signature.
    NotVhdx,
    /// Neither header is valid.
    NoHeader,
    /// The log has not been replayed.
    Log,
    /// Neither region table is valid.
    NoRegions,
    /// A region that must be understood and is not.
    UnknownRegion,
    /// A region is missing, doubled, misplaced, or overlaps another.
    Region(&'static str),
    /// The metadata table is not one.
    NoMetadata,
    /// A metadata item that must be understood and is not.
    UnknownItem,
    /// A metadata item is missing, doubled, misplaced, or has an impossible value.
    Item(&'static str),
    /// The image says what differs from another one.
    Differencing,
    /// The block table does not hold the disk.
    TableTooSmall,
}

impl fmt::Display for VhdxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotVhdx => "Image is not in VHDX format",
            Self::NoHeader => "No valid VHDX header found",
            Self::Log => "the VHDX image has a log that must be replayed first ('qemu-img check -r all' does it)",
            Self::NoRegions => "No valid VHDX region table found",
            Self::UnknownRegion => "the VHDX image has a required region that is not known",
            Self::Region(name) => return write!(f, "the {name} of the VHDX image is missing or misplaced"),
            Self::NoMetadata => "No valid VHDX metadata table found",
            Self::UnknownItem => "the VHDX image has required metadata that is not known",
            Self::Item(name) => return write!(f, "the {name} of the VHDX image is missing or invalid"),
            Self::Differencing => "differencing VHDX images cannot be read",
            Self::TableTooSmall => "the block table of the VHDX image is too small for its disk",
        })
    }
}

impl core::error::Error for VhdxError {}
