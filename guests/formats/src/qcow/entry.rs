//! L2 entries: 64 bits that say where in the file a cluster lies, and for a packed one how long it is.

use super::Geometry;

const COMPRESSED: u64 = 1 << 63;

/// What an L2 entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Not in this image: the backing file shows through.
    Unallocated,
    /// The cluster lies at this offset.
    Data(u64),
    /// Raw deflate, packed.
    Compressed {
        /// Where the packed bytes begin.
        offset: u64,
        /// How many there are, less than a cluster.
        length_bytes: u64,
    },
}

impl Entry {
    /// What a stored entry means.
    #[must_use]
    pub const fn decode(geometry: &Geometry, raw: u64) -> Self {
        if raw == 0 {
            return Self::Unallocated;
        }
        if raw & COMPRESSED == 0 {
            return Self::Data(raw);
        }
        let offset_bits = 63 - geometry.cluster_bits;
        let length_bytes = (raw >> offset_bits) & (geometry.cluster_size_bytes() - 1);
        Self::Compressed { offset: raw & ((1 << offset_bits) - 1), length_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_a_packed_entry() {
        let geometry = Geometry { cluster_bits: 12, l2_bits: 9 };
        assert_eq!(Entry::decode(&geometry, 0), Entry::Unallocated);
        assert_eq!(Entry::decode(&geometry, 0x2000), Entry::Data(0x2000));
        let packed = 1 << 63 | 0x123 << 51 | 0x4567;
        assert_eq!(Entry::decode(&geometry, packed), Entry::Compressed { offset: 0x4567, length_bytes: 0x123 });
    }
}
