//! Images that are made of a header, tables and blocks, without refcounts: what is new goes to the end of the file.
//!
//! One engine reads and writes them all; what tells the formats apart is a [`Shape`] and a [`Dialect`].

mod census;
mod grow;
mod image;
mod target;

use alloc::vec::Vec;
use core::ops::Range;

use instar_abi::report::error_kind;
use instar_plan::commit::Block;

pub use image::Blocks;
pub use target::BlocksTarget;

use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// "File too large".
pub(crate) const EFBIG: i32 = 27;
/// "Operation not supported".
pub(crate) const EOPNOTSUPP: i32 = 95;

/// How an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryForm {
    /// 32 bits, little-endian.
    Little32,
    /// 64 bits, little-endian.
    Little64,
    /// 32 bits, big-endian.
    Big32,
    /// 64 bits, big-endian.
    Big64,
}

/// Where the entries lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// One table for the whole disk.
    Flat {
        /// Where it begins.
        offset: u64,
        /// How many entries follow each other without anything between them.
        run_entries: u64,
        /// How far apart the first entries of two runs are, in bytes.
        stride_bytes: u64,
        /// Length of the whole table in bytes.
        length_bytes: u64,
    },
    /// A table of tables.
    Tables {
        /// Where the upper table begins. Its entries have the form of the lower ones.
        offset: u64,
        /// Entries in each lower table, a power of two.
        table_entries: u64,
        /// Offsets of the lower tables, as far as the disk needs them; 0 where there is none.
        places: Vec<u64>,
    },
}

/// Sizes and places of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of the layer in the job, for messages.
    pub layer: u32,
    /// Device of the image's file.
    pub device: DeviceId,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Length of a block in bytes; for images that are written a power of two, and at most 1 GiB.
    pub block_size_bytes: u64,
    /// How entries are stored.
    pub form: EntryForm,
    /// Where they lie.
    pub directory: Directory,
    /// What lies before each block's data and belongs to it, in bytes.
    pub prefix_bytes: u64,
    /// What the start of a new block, or of a new table, is a multiple of.
    pub alignment_bytes: u64,
    /// Where new blocks and tables begin at the earliest; what the entries and the metadata tell counts besides.
    pub end_bytes: u64,
    /// Parts of the file, apart from the tables, that no block may touch.
    pub areas: Vec<Range<u64>>,
}

/// What only one format does.
pub trait Dialect {
    /// What a stored entry means.
    ///
    /// # Errors
    /// What is wrong with an entry that no image can have.
    fn decode(&self, raw: u64) -> core::result::Result<Block, &'static str>;

    /// The entry of a block whose data lie at `offset`; `None` if no entry can say so.
    fn encode(&self, offset: u64) -> Option<u64>;

    /// The entry of a block that reads as zeros, where the format has one.
    fn zero_entry(&self) -> Option<u64> {
        None
    }

    /// Called once, before anything else is written.
    ///
    /// # Errors
    /// If a device refuses.
    fn begin(&mut self, _: &mut dyn Storage, _: &Shape) -> Result<()> {
        Ok(())
    }

    /// Called when a block is about to receive data, new or not; `offset` is where its data lie.
    ///
    /// # Errors
    /// If a device refuses.
    fn touch(&mut self, _: &mut dyn Storage, _: &Shape, _offset: u64) -> Result<()> {
        Ok(())
    }

    /// Called when the file ends somewhere else, before the barrier behind which entries lead there.
    ///
    /// # Errors
    /// If a device refuses.
    fn occupy(&mut self, _: &mut dyn Storage, _: &Shape) -> Result<()> {
        Ok(())
    }

    /// The number of lower tables for a disk of another size; `None` if it cannot have that size.
    fn tables_for(&self, _size_bytes: u64) -> Option<u64> {
        None
    }

    /// Whether the size of the disk can be changed at all.
    fn can_grow(&self) -> bool {
        false
    }

    /// Writes the new size of the disk; only where [`Dialect::can_grow`].
    ///
    /// # Errors
    /// If a device refuses.
    fn set_size(&mut self, _: &mut dyn Storage, _: &Shape) -> Result<()> {
        Ok(())
    }
}

impl EntryForm {
    /// Length of an entry in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Little32 | Self::Big32 => 4,
            Self::Little64 | Self::Big64 => 8,
        }
    }

    /// Reads an entry.
    fn get(self, bytes: &[u8]) -> u64 {
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        match self {
            Self::Big32 | Self::Big64 => bytes.iter().fold(0, fold),
            Self::Little32 | Self::Little64 => bytes.iter().rev().fold(0, fold),
        }
    }

    /// Stores an entry in as many bytes as it has; a value that needs more was never encoded.
    fn put(self, value: u64, bytes: &mut [u8]) {
        let length = bytes.len();
        match self {
            Self::Big32 | Self::Big64 => bytes.copy_from_slice(&value.to_be_bytes()[8 - length..]),
            Self::Little32 | Self::Little64 => bytes.copy_from_slice(&value.to_le_bytes()[..length]),
        }
    }
}

impl Shape {
    /// A finding about the image's metadata.
    pub(crate) fn corrupt(&self, text: impl core::fmt::Display) -> Failure {
        Failure::new(error_kind::CORRUPT, self.layer, text)
    }

    /// A device refused.
    pub(crate) fn refused(&self, error: crate::storage::StorageError) -> Failure {
        Failure::storage(self.layer, error)
    }

    /// No entry can say where the next block would lie.
    fn too_large(&self) -> Failure {
        Failure { errno: EFBIG, ..Failure::new(error_kind::JOB, self.layer, "File too large") }
    }

    /// Number of blocks of the disk.
    fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_size_bytes)
    }
}

/// The text of a disk that cannot become larger.
pub(crate) fn cannot_grow(layer: u32) -> Failure {
    Failure::new(error_kind::JOB, layer, "Operation not supported").with_errno(EOPNOTSUPP)
}
