//! Grain table entries: 32 bits that say in which sector of the file a grain lies.
//!
//! Source: Virtual Disk Format 5.0, "Grain Table"; the entry for zeros is announced by a flag of the header.

use super::{Geometry, SECTOR_BYTES};

/// What stands for zeros, if the header says so.
const ZEROED: u32 = 1;

/// An entry of a grain table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrainEntry {
    /// Not in this image: the parent shows through.
    Unallocated,
    /// Zeros.
    Zeroed,
    /// The grain begins at this sector of the file, never 0.
    Allocated(u32),
}

impl GrainEntry {
    /// What a stored entry means.
    #[must_use]
    pub const fn decode(geometry: &Geometry, raw: u32) -> Self {
        match raw {
            0 => Self::Unallocated,
            ZEROED if geometry.has_zeroed_grains => Self::Zeroed,
            sector => Self::Allocated(sector),
        }
    }

    /// The entry as it is stored.
    #[must_use]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Unallocated => 0,
            Self::Zeroed => ZEROED,
            Self::Allocated(sector) => sector,
        }
    }

    /// Where in the file the grain begins, in bytes.
    #[must_use]
    pub const fn host_offset(self) -> Option<u64> {
        match self {
            Self::Allocated(sector) => Some(sector as u64 * SECTOR_BYTES),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_means_zeros_only_where_the_header_says_so() {
        let mut geometry =
            Geometry { grain_size_bytes: 65536, table_entries: 512, capacity_bytes: 1 << 20, has_zeroed_grains: true };
        assert_eq!(GrainEntry::decode(&geometry, 1), GrainEntry::Zeroed);
        geometry.has_zeroed_grains = false;
        assert_eq!(GrainEntry::decode(&geometry, 1), GrainEntry::Allocated(1));
        for raw in [0, 1, 2, u32::MAX] {
            assert_eq!(GrainEntry::decode(&geometry, raw).encode(), raw);
        }
    }
}
