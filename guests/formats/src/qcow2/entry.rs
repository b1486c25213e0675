//! L1 and L2 table entries: 64 bits that say where a table or a cluster lies, and the subcluster bitmap beside it.
//!
//! Source: qcow2 format document, sections "Cluster mapping" and "Extended L2 Entries".

use core::fmt;

use super::geometry::Geometry;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Bits 9 to 55 hold the host offset, in L1 entries and in L2 entries of uncompressed clusters.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// How many entries are looked at together before they are looked at one by one.
const GROUP_ENTRIES: usize = 8;

/// An L1 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Entry(pub u64);

impl L1Entry {
    /// An entry for an L2 table that nothing else refers to.
    #[must_use]
    pub const fn owned(l2_offset: u64) -> Self {
        Self(l2_offset | COPIED)
    }

    /// Host offset of the L2 table; `None` where there is none.
    #[must_use]
    pub const fn l2_offset(self) -> Option<u64> {
        match self.0 & OFFSET_MASK {
            0 => None,
            offset => Some(offset),
        }
    }

    /// Whether the L2 table has a refcount of exactly one.
    #[must_use]
    pub const fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// The same entry, saying whether the L2 table has a refcount of exactly one.
    #[must_use]
    pub const fn with_copied(self, is_copied: bool) -> Self {
        Self(if is_copied { self.0 | COPIED } else { self.0 & !COPIED })
    }
}

/// What one subcluster (or a whole cluster, where there are no subclusters) reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcluster {
    /// Not in this image: the backing file shows through.
    Unallocated,
    /// Zeros, whatever the host cluster holds.
    Zero,
    /// The bytes of the host cluster.
    Data,
}

/// An L2 entry as it stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct L2Entry {
    /// The first 64 bits.
    pub descriptor: u64,
    /// The subcluster bitmap; always 0 without extended L2.
    pub bitmap: u64,
}

/// Where the bytes of a compressed cluster lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressedRange {
    /// First byte, not aligned.
    pub host_offset: u64,
    /// Upper bound of the length: to the end of the last 512-byte sector.
    pub length_bytes: u64,
}

/// What is wrong with an L2 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// The host offset of a cluster is not a multiple of the cluster size.
    Unaligned {
        /// The offset in the entry.
        host_offset: u64,
    },
    /// A subcluster is marked as allocated and as zero at once, or allocated without a host cluster.
    InvalidBitmap {
        /// The bitmap in the entry.
        bitmap: u64,
    },
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { host_offset } => write!(f, "Cluster allocation offset {host_offset:#x} unaligned"),
            Self::InvalidBitmap { bitmap } => write!(f, "Invalid subcluster bitmap {bitmap:#x}"),
        }
    }
}

impl core::error::Error for EntryError {}

impl L2Entry {
    /// Nothing allocated: the backing file shows through.
    pub const UNALLOCATED: Self = Self { descriptor: 0, bitmap: 0 };

    /// A cluster of data in a host cluster that nothing else refers to.
    #[must_use]
    pub fn data(geometry: &Geometry, host_offset: u64) -> Self {
        Self { descriptor: host_offset | COPIED, bitmap: if geometry.extended_l2 { 0xffff_ffff } else { 0 } }
    }

    /// A cluster that reads as zeros and has no host cluster.
    #[must_use]
    pub fn zero(geometry: &Geometry) -> Self {
        if geometry.extended_l2 {
            Self { descriptor: 0, bitmap: 0xffff_ffff << 32 }
        } else {
            Self { descriptor: ZERO, bitmap: 0 }
        }
    }

    /// A compressed cluster whose `length_bytes` packed bytes begin at `host_offset`; `None` where the entry has no room for
    /// that offset. Packed clusters are shorter than clusters, and never empty.
    #[must_use]
    pub const fn compressed(geometry: &Geometry, host_offset: u64, length_bytes: u64) -> Option<Self> {
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let last = host_offset + length_bytes - 1;
        if last >> offset_bits != 0 {
            return None;
        }
        let additional_sectors = last / 512 - host_offset / 512;
        Some(Self { descriptor: COMPRESSED | additional_sectors << offset_bits | host_offset, bitmap: 0 })
    }

    /// Reads entry `index` of a table.
    ///
    /// # Panics
    /// If the table is too short.
    #[must_use]
    pub fn read(geometry: &Geometry, table: &[u8], index: usize) -> Self {
        let word = |offset: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&table[offset..offset + 8]);
            u64::from_be_bytes(raw)
        };
        if geometry.extended_l2 {
            Self { descriptor: word(index * 16), bitmap: word(index * 16 + 8) }
        } else {
            Self { descriptor: word(index * 8), bitmap: 0 }
        }
    }

    /// Calls `each` with the entries in a piece of a table that are not empty, and their indexes there. Most of a table is empty in a
    /// small image, and in one whose clusters lie far apart: these entries are passed over several at a time.
    ///
    /// # Errors
    /// Those of `each`, which is not called again then.
    pub fn for_each_found<E>(
        geometry: &Geometry,
        piece: &[u8],
        mut each: impl FnMut(usize, Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let entry_bytes = if geometry.extended_l2 { 16 } else { 8 };
        for (number, group) in piece.chunks(GROUP_ENTRIES * entry_bytes).enumerate() {
            if group.iter().fold(0, |all, byte| all | byte) == 0 {
                continue;
            }
            for index in 0..group.len() / entry_bytes {
                let entry = Self::read(geometry, group, index);
                if entry != Self::UNALLOCATED {
                    each(number * GROUP_ENTRIES + index, entry)?;
                }
            }
        }
        Ok(())
    }

    /// Writes entry `index` of a table.
    ///
    /// # Panics
    /// If the table is too short.
    pub fn write(self, geometry: &Geometry, table: &mut [u8], index: usize) {
        if geometry.extended_l2 {
            table[index * 16..][..8].copy_from_slice(&self.descriptor.to_be_bytes());
            table[index * 16 + 8..][..8].copy_from_slice(&self.bitmap.to_be_bytes());
        } else {
            table[index * 8..][..8].copy_from_slice(&self.descriptor.to_be_bytes());
        }
    }

    /// Whether the cluster is compressed.
    #[must_use]
    pub const fn is_compressed(self) -> bool {
        self.descriptor & COMPRESSED != 0
    }

    /// Whether nothing at all is recorded: no host cluster, no zero, no subcluster.
    #[must_use]
    pub const fn is_unallocated(self) -> bool {
        self.descriptor & (OFFSET_MASK | COMPRESSED | COPIED | ZERO) == 0 && self.bitmap == 0
    }

    /// Host offset of the cluster; `None` for compressed clusters and where there is none.
    #[must_use]
    pub const fn host_offset(self, geometry: &Geometry) -> Option<u64> {
        if self.is_compressed() {
            return None;
        }
        match self.descriptor & OFFSET_MASK {
            0 if !(geometry.external_data && self.descriptor & COPIED != 0) => None,
            offset => Some(offset),
        }
    }

    /// Where the compressed bytes lie; `None` for every other kind of cluster.
    #[must_use]
    pub const fn compressed_range(self, geometry: &Geometry) -> Option<CompressedRange> {
        if !self.is_compressed() {
            return None;
        }
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let host_offset = self.descriptor & ((1 << offset_bits) - 1);
        let additional_sectors = (self.descriptor & (COMPRESSED - 1)) >> offset_bits;
        Some(CompressedRange { host_offset, length_bytes: (additional_sectors + 1) * 512 - host_offset % 512 })
    }

    /// What subcluster `index` reads as; without extended L2 there is only subcluster 0, the cluster.
    ///
    /// A compressed cluster is `Data` throughout; see [`L2Entry::compressed_range`].
    #[must_use]
    pub const fn subcluster(self, geometry: &Geometry, index: u32) -> Subcluster {
        if self.is_compressed() {
            Subcluster::Data
        } else if geometry.extended_l2 {
            if self.bitmap >> (32 + index) & 1 != 0 {
                Subcluster::Zero
            } else if self.bitmap >> index & 1 != 0 {
                Subcluster::Data
            } else {
                Subcluster::Unallocated
            }
        } else if geometry.version >= 3 && self.descriptor & ZERO != 0 {
            Subcluster::Zero
        } else if self.host_offset(geometry).is_some() {
            Subcluster::Data
        } else {
            Subcluster::Unallocated
        }
    }

    /// The same entry with subcluster `index` as data in the host cluster at `host_offset`.
    #[must_use]
    pub fn with_data(self, geometry: &Geometry, index: u32, host_offset: u64) -> Self {
        if geometry.extended_l2 {
            let bitmap = (self.bitmap | 1 << index) & !(1 << (32 + index));
            Self { descriptor: host_offset | COPIED, bitmap }
        } else {
            Self::data(geometry, host_offset)
        }
    }

    /// The same entry with its data in the host cluster at `host_offset`.
    #[must_use]
    pub const fn moved_to(self, host_offset: u64) -> Self {
        Self { descriptor: host_offset | COPIED, ..self }
    }

    /// The same entry, saying whether the host cluster has a refcount of exactly one.
    #[must_use]
    pub const fn with_copied(self, is_copied: bool) -> Self {
        let descriptor = if is_copied { self.descriptor | COPIED } else { self.descriptor & !COPIED };
        Self { descriptor, ..self }
    }

    /// Checks what can be checked of the entry alone.
    ///
    /// # Errors
    /// If the host offset is unaligned, or the subcluster bitmap contradicts itself.
    pub fn check(self, geometry: &Geometry) -> Result<(), EntryError> {
        if self.is_compressed() {
            return Ok(());
        }
        let host_offset = self.descriptor & OFFSET_MASK;
        if !geometry.is_cluster_aligned(host_offset) {
            return Err(EntryError::Unaligned { host_offset });
        }
        let (allocated, zero) = (self.bitmap & 0xffff_ffff, self.bitmap >> 32);
        if allocated & zero != 0 || (allocated != 0 && self.host_offset(geometry).is_none()) {
            return Err(EntryError::InvalidBitmap { bitmap: self.bitmap });
        }
        Ok(())
    }
}
