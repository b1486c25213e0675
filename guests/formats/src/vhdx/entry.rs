//! Entries of the block table: 64 bits that say whether a block is there and where.

const STATE: u64 = 7;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
const OFFSET: u64 = !0 << 20;

/// What an entry of a payload block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockEntry {
    /// Not there, undefined, zero or unmapped: reads as zeros in an image without a parent.
    Absent,
    /// The block lies at this offset, a multiple of 1 MiB.
    Present(u64),
    /// Part of the block lies in a parent, which no image here has.
    Partial,
}

impl BlockEntry {
    /// What a stored entry means.
    #[must_use]
    pub const fn decode(raw: u64) -> Self {
        match raw & STATE {
            FULLY_PRESENT => Self::Present(raw & OFFSET),
            PARTIALLY_PRESENT => Self::Partial,
            _ => Self::Absent,
        }
    }

    /// The entry of a block at `offset`, a multiple of 1 MiB.
    #[must_use]
    pub const fn present(offset: u64) -> u64 {
        offset & OFFSET | FULLY_PRESENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_block_that_is_fully_present_has_a_place() {
        assert_eq!(BlockEntry::decode(BlockEntry::present(5 << 20)), BlockEntry::Present(5 << 20));
        for state in 0..6 {
            assert_eq!(BlockEntry::decode(5 << 20 | state), BlockEntry::Absent);
        }
        assert_eq!(BlockEntry::decode(5 << 20 | 7), BlockEntry::Partial);
    }
}
