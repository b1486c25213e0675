//! The parts of a plan.

use serde::Deserialize;

/// What the operation itself would report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Moves {
    /// Bytes of the disk that the image would receive.
    pub bytes: u64,
    /// Clusters that they lie in.
    pub clusters: u64,
    /// Clusters that the overlay would give up.
    pub cleared_clusters: u64,
    /// Whether the overlay would be deleted.
    pub deletes_overlay: bool,
}

/// An image that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct PlannedLayer {
    /// Its name.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// Size of its disk.
    pub virtual_size_bytes: u64,
    /// Whether it receives data.
    pub is_target: bool,
    /// Entries of its tables that would be corrected first, because it was not closed properly.
    pub repairs: u64,
}

/// What would become of a file. A place that changes more than once counts for what is done to it last.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct PlannedFile {
    /// Its name.
    pub filename: String,
    /// The place of its image among the layers.
    pub layer: usize,
    /// Its length now.
    pub length_bytes: u64,
    /// Its length afterwards.
    pub planned_length_bytes: u64,
    /// What is copied from another file, or within this one, as it is.
    pub copied: Amount,
    /// What the guest program writes: tables, and data that is stored otherwise than it comes.
    pub written: Amount,
    /// What is made to read as zeros.
    pub zeroed: Amount,
    /// What is given back to the file system while the length stays.
    pub released: Amount,
    /// What has to be stored where the file stores nothing now.
    pub newly_stored_bytes: u64,
    /// What is stored now and will not be any more.
    pub freed_bytes: u64,
}

/// How much, and in how many pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Amount {
    /// How much.
    pub bytes: u64,
    /// In how many pieces.
    pub extents: u64,
}

/// How long a file would become.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct FileLength {
    /// Its name.
    pub filename: String,
    /// Its length now.
    pub length_bytes: u64,
    /// Its length afterwards.
    pub planned_length_bytes: u64,
    /// What has to be stored where the file stores nothing now.
    pub newly_stored_bytes: u64,
}

/// What the layers hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Map {
    /// Size of the largest disk.
    pub size_bytes: u64,
    /// How much of it a cell stands for; the last one may stand for less.
    pub column_bytes: u64,
    /// One row a layer.
    pub rows: Vec<Vec<Cell>>,
}

/// What one layer holds in one part of the disk. What is missing to the column's length it does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Cell {
    /// Data that is stored as it is.
    pub data_bytes: u64,
    /// Data that is stored compressed.
    pub compressed_bytes: u64,
    /// What it holds as zeros.
    pub zero_bytes: u64,
}
