//! What can be wrong with a vmdk image, in the words that users of this kind of tool know.

use alloc::string::String;
use core::fmt;

/// A vmdk image that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmdkError {
    /// Neither a sparse extent nor a descriptor.
    NotVmdk,
    /// An empty file.
    TooSmall,
    /// A version above 3.
    Version(u32),
    /// More than 512 entries in a grain table.
    TableTooBig,
    /// No entries in a grain table, no sectors in a grain, or more of them together than can be counted.
    EntrySize,
    /// Grains above 1 GiB.
    Granularity,
    /// The metadata alone is longer than the file.
    Truncated {
        /// How long the file must at least be.
        needed_bytes: u64,
    },
    /// A disk larger than any file can be.
    SizeTooLarge,
    /// More grain tables than [`super::header::GRAIN_TABLES_MAX`].
    DirectoryTooLarge,
    /// The grain directory is said to be described at the end of the file, and is not.
    Footer,
    /// A subformat that is not a file of text with extents beside it, or that nobody here reads.
    ImageType(String),
    /// A line that starts like an extent and goes on like something else.
    ExtentLine(String),
    /// A descriptor without a single extent.
    NoExtents,
    /// A descriptor whose parent name is not closed, or longer than 1023 bytes.
    ParentName,
}

impl fmt::Display for VmdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotVmdk => "invalid VMDK image descriptor",
            Self::TooSmall => "File is too small, not a valid image",
            Self::Version(version) => return write!(f, "Unsupported VMDK version {version}"),
            Self::TableTooBig => "L2 table size too big",
            Self::EntrySize => "L1 entry size is invalid",
            Self::Granularity => "Invalid granularity, image may be corrupt",
            Self::Truncated { needed_bytes } => {
                return write!(f, "File truncated, expecting at least {needed_bytes} bytes");
            }
            Self::SizeTooLarge => "Could not refresh total sector count: File too large",
            Self::DirectoryTooLarge => "L1 size too big",
            Self::Footer => "Invalid footer",
            Self::ImageType(name) => return write!(f, "Unsupported image type '{name}'"),
            Self::ExtentLine(line) => return write!(f, "Invalid extent line: {line}"),
            Self::NoExtents => "the VMDK image descriptor names no extents",
            Self::ParentName => "the VMDK image descriptor's parentFileNameHint is not a name",
        })
    }
}

impl core::error::Error for VmdkError {}
