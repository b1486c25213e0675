//! Independent readers of image formats, for oracles only. They read files that the product wrote and never write.
//!
//! A [`Layer`] is one file of a chain; [`Chain`] opens a file with everything below it and resolves guest offsets.
//! What they cannot see: encryption, and vmdk files of several extents.

mod bytes;
mod chain;
mod parallels;
mod qcow1;
pub mod qcow2;
mod qed;
mod raw;
mod vdi;
mod vhdx;
mod vmdk;
mod vpc;

pub use bytes::{Files, OnDisk, ReadAt, Source};
pub use chain::{Chain, MAX_PIECES, Piece, resolve_name};

use std::fmt;

/// Counts of the qcow2 checker, or why it cannot check.
pub type CheckResultOf = Result<qcow2::CheckResult, String>;

/// What a layer holds for a guest range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: the layer below shows through.
    Absent,
    /// Reads as zero because this layer says so.
    Zero,
    /// Bytes stored in this layer.
    Data,
}

/// A run of guest bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the offset asked for; never 0 inside of the image.
    pub length: u64,
    /// What the layer holds there.
    pub kind: Kind,
}

/// Name and format of a backing file as a layer records them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The recorded string.
    pub name: String,
    /// The recorded format, if there is one.
    pub format: Option<String>,
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError(pub String);

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ImageError {}

impl From<std::io::Error> for ImageError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn bad<T>(text: impl Into<String>) -> Result<T, ImageError> {
    Err(ImageError(text.into()))
}

/// One image file.
pub trait Layer: fmt::Debug {
    /// Guest-visible size in bytes.
    fn virtual_size(&self) -> u64;
    /// The kind of the run that starts at `offset` (which lies inside of the image); never longer than the image.
    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError>;
    /// Reads bytes of one data extent.
    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError>;
    /// The backing file that this layer names.
    fn backing(&self) -> Option<&Backing> {
        None
    }
    /// For formats that pin their parent: own identifier and the one that the parent must show.
    fn parent_link(&self) -> Option<(&str, &str)> {
        None
    }
    /// Whether the imago crate knows the format and every feature used.
    fn imago_reads(&self) -> bool {
        false
    }
    /// The external file that holds this layer's data clusters.
    fn data_file(&self) -> Option<&str> {
        None
    }
}
