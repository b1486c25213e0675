//! How much more a file can take of its file system, where that can be known.

use nix::sys::statfs::{EXT4_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};

use super::open::ImageFile;
use crate::devices::data_bytes;

/// The space for one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free on the file system, reserves among it.
    pub free_bytes: u64,
    /// What the file takes although it stores nothing there: it was taken in advance, or is the file system's own.
    pub unused_bytes: u64,
    /// Length of a block: the file's last one may have room.
    pub block_bytes: u64,
}

impl Space {
    /// How much is free for a file, in bytes; `None` where no number is certain: where files share blocks, are compressed, or lie
    /// elsewhere. Cheap.
    pub fn free_for(image: &ImageFile) -> Option<u64> {
        Self::status(image).map(|(free_bytes, _)| free_bytes)
    }

    /// Looks closer. `None` as for [`Space::free_for`].
    pub fn of(image: &ImageFile) -> Option<Self> {
        let (free_bytes, block_bytes) = Self::status(image)?;
        let facts = image.facts().ok()?;
        let stored = data_bytes(image.file(), 0..facts.length_bytes);
        Some(Self { free_bytes, unused_bytes: facts.allocated_bytes.saturating_sub(stored), block_bytes })
    }

    /// Free bytes and the length of a block.
    fn status(image: &ImageFile) -> Option<(u64, u64)> {
        let status = fstatfs(image.file()).ok()?;
        let is_plain = [EXT4_SUPER_MAGIC, TMPFS_MAGIC].contains(&status.filesystem_type());
        let block_bytes = u64::try_from(status.block_size()).ok()?;
        let is_known = is_plain && !image.is_block_device();
        is_known.then(|| (status.blocks_free().saturating_mul(block_bytes), block_bytes))
    }
}
