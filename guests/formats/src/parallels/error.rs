//! What can be wrong with a parallels header, in the words that users of this kind of tool know.

use core::fmt;

/// A header that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParallelsError {
    /// Another magic, another version, or a file shorter than a header.
    NotParallels,
    /// Clusters without a sector.
    ZeroTracks,
    /// Clusters of more than 2^31 bytes.
    TracksTooLarge,
    /// More entries than qemu-img takes.
    CatalogTooLarge,
    /// Fewer entries than the disk needs.
    CatalogTooSmall,
    /// More sectors than a disk can have.
    TooLarge,
}

impl fmt::Display for ParallelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotParallels => "Image not in Parallels format",
            Self::ZeroTracks => "Invalid image: Zero sectors per track",
            Self::TracksTooLarge => "Invalid image: Too big cluster",
            Self::CatalogTooLarge => "Catalog too large",
            Self::CatalogTooSmall => "Catalog too small",
            Self::TooLarge => "Could not refresh total sector count: File too large",
        })
    }
}

impl core::error::Error for ParallelsError {}
