//! Sizes of a sparse extent that follow from its header. All offsets here are relative to the extent's start on the disk.

use super::SECTOR_BYTES;

/// Sizes of a sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Length of a grain in bytes: at least 512, at most 1 GiB, not necessarily a power of two.
    pub grain_size_bytes: u64,
    /// Entries of a grain table, 1 to 512.
    pub table_entries: u64,
    /// Length of the extent in bytes, below 2^63.
    pub capacity_bytes: u64,
    /// Whether entry 1 stands for zeros.
    pub has_zeroed_grains: bool,
}

impl Geometry {
    /// Index of the grain that holds an offset.
    #[must_use]
    pub const fn grain_index(&self, offset: u64) -> u64 {
        offset / self.grain_size_bytes
    }

    /// Number of grains up to an offset, the last one perhaps in part.
    #[must_use]
    pub const fn grains_for(&self, offset: u64) -> u64 {
        offset.div_ceil(self.grain_size_bytes)
    }

    /// Where a grain begins.
    #[must_use]
    pub const fn grain_start(&self, grain: u64) -> u64 {
        grain.saturating_mul(self.grain_size_bytes)
    }

    /// Index of the grain directory entry for a grain.
    #[must_use]
    pub const fn table_index(&self, grain: u64) -> u64 {
        grain / self.table_entries
    }

    /// Index of a grain's entry in its table.
    #[must_use]
    pub const fn entry_index(&self, grain: u64) -> u64 {
        grain % self.table_entries
    }

    /// How much of the disk a grain table describes, in bytes.
    #[must_use]
    pub const fn table_coverage_bytes(&self) -> u64 {
        self.table_entries * self.grain_size_bytes
    }

    /// Number of entries of the grain directory.
    #[must_use]
    pub const fn directory_entries(&self) -> u64 {
        self.capacity_bytes.div_ceil(self.table_coverage_bytes())
    }

    /// Length of a grain table in bytes.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        self.table_entries * 4
    }

    /// Length of a grain table in the file, where everything begins at a sector.
    #[must_use]
    pub const fn table_room_bytes(&self) -> u64 {
        self.table_bytes().next_multiple_of(SECTOR_BYTES)
    }
}
