//! What can be wrong with a vpc image.

use core::fmt;

/// An image that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpcError {
    /// No footer where one must be.
    NotVpc,
    /// A growing disk without its header.
    NoHeader,
    /// A footer whose bytes do not add up.
    Checksum,
    /// A disk that only says what differs from another one.
    Differencing,
    /// Neither fixed nor growing.
    Kind(u32),
    /// More than 2040 GiB.
    TooLarge,
    /// Not a power of two of at least 512.
    BlockSize(u32),
    /// Fewer blocks than the disk needs.
    TableTooSmall,
}

impl fmt::Display for VpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVpc => f.write_str("invalid VPC image"),
            Self::NoHeader => f.write_str("Invalid header magic"),
            Self::Checksum => f.write_str("Incorrect header checksum"),
            Self::Differencing => f.write_str("differencing VPC images cannot be read"),
            Self::Kind(kind) => write!(f, "VPC images of type {kind} cannot be read"),
            Self::TooLarge => f.write_str("the VPC image is larger than 2040 GiB"),
            Self::BlockSize(size) => write!(f, "Invalid block size {size}"),
            Self::TableTooSmall => f.write_str("Page table too small"),
        }
    }
}

impl core::error::Error for VpcError {}
