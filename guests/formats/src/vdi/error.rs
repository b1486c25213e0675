//! What can be wrong with a vdi header, in the words that users of this kind of tool know.

use core::fmt;

use super::BLOCK_BYTES;

/// A header that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiError {
    /// Another signature, or a file shorter than a header.
    NotVdi(u32),
    /// A version other than 1.1.
    Version(u32),
    /// A block map that does not begin at a sector.
    MapOffset(u32),
    /// Blocks that do not begin at a sector.
    DataOffset(u32),
    /// Sectors of another length.
    SectorSize(u32),
    /// Blocks of another length.
    BlockSize(u32),
    /// Blocks with bytes of their own before the data.
    BlockExtra(u32),
    /// More disk than blocks.
    DiskSize {
        /// Size of the disk.
        disk_bytes: u64,
        /// What the block map can describe.
        room_bytes: u64,
    },
    /// An image that belongs to a snapshot.
    Link,
    /// An image that has a parent.
    Parent,
    /// More blocks than qemu-img takes.
    TooManyBlocks(u32),
}

impl fmt::Display for VdiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::NotVdi(signature) = self {
            return write!(f, "Image not in VDI format (bad signature {signature:08x})");
        }
        f.write_str("unsupported VDI image (")?;
        match self {
            Self::NotVdi(_) => Ok(()),
            Self::Version(version) => write!(f, "version {}.{}", version >> 16, version & 0xffff),
            Self::MapOffset(offset) => write!(f, "unaligned block map offset {offset:#x}"),
            Self::DataOffset(offset) => write!(f, "unaligned data offset {offset:#x}"),
            Self::SectorSize(size) => write!(f, "sector size {size} is not 512"),
            Self::BlockSize(size) => write!(f, "block size {size} is not {BLOCK_BYTES}"),
            Self::BlockExtra(size) => write!(f, "{size} extra bytes before each block"),
            Self::DiskSize { disk_bytes, room_bytes } => {
                write!(f, "disk size {disk_bytes}, image bitmap has room for {room_bytes}")
            }
            Self::Link => f.write_str("non-NULL link UUID"),
            Self::Parent => f.write_str("non-NULL parent UUID"),
            Self::TooManyBlocks(blocks) => {
                write!(f, "too many blocks {blocks}, max is {}", super::header::BLOCKS_MAX)
            }
        }?;
        f.write_str(")")
    }
}

impl core::error::Error for VdiError {}
