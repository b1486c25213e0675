//! L2 entries, standard and extended.

use super::super::bytes::be64;
use super::super::{ImageError, Kind, bad};
use super::header::{EXTERNAL_DATA, Header};

/// Host offset in L1 and standard L2 entries.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Refcount of the target is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Where an entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Compressed data: first byte and the most bytes that belong to it.
    Compressed { offset: u64, length: u64 },
    /// A host cluster (offset 0: none) with the flags that matter.
    Standard { offset: u64, zero: bool, copied: bool },
}

/// One entry; the bitmap is 0 in images without subclusters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct L2Entry {
    pub(crate) raw: u64,
    pub(crate) bitmap: u64,
}

impl L2Entry {
    pub(crate) fn read(table: &[u8], index: u64, header: &Header) -> Self {
        let at = usize::try_from(index * header.l2_entry_size()).unwrap_or(usize::MAX - 16);
        Self { raw: be64(table, at), bitmap: if header.extended_l2() { be64(table, at + 8) } else { 0 } }
    }

    pub(crate) fn is_compressed(self) -> bool {
        self.raw & COMPRESSED != 0
    }

    pub(crate) fn copied(self) -> bool {
        self.raw & COPIED != 0
    }

    pub(crate) fn cluster(self, header: &Header) -> Cluster {
        if self.is_compressed() {
            let shift = 62 - (header.cluster_bits - 8);
            let offset = self.raw & ((1 << shift) - 1);
            let sectors = (self.raw >> shift) & ((1 << (header.cluster_bits - 8)) - 1);
            return Cluster::Compressed { offset, length: (sectors + 1) * 512 - offset % 512 };
        }
        Cluster::Standard {
            offset: self.raw & OFFSET_MASK,
            zero: header.version == 3 && !header.extended_l2() && self.raw & ZERO != 0,
            copied: self.copied(),
        }
    }

    /// Whether a host cluster stands behind the entry. Offset 0 is a real place in an external data file.
    pub(crate) fn has_host_cluster(self, header: &Header) -> bool {
        self.raw & OFFSET_MASK != 0 || (header.incompatible & EXTERNAL_DATA != 0 && self.copied())
    }

    fn aligned(self, header: &Header, kind: Kind) -> Result<Kind, ImageError> {
        let offset = self.raw & OFFSET_MASK;
        if !offset.is_multiple_of(header.cluster_size()) {
            return bad(format!("cluster offset {offset:#x} unaligned"));
        }
        Ok(kind)
    }

    /// Kind of a whole cluster in an image without subclusters.
    pub(crate) fn cluster_kind(self, header: &Header) -> Result<Kind, ImageError> {
        match self.cluster(header) {
            Cluster::Compressed { .. } => Ok(Kind::Data),
            Cluster::Standard { zero: true, .. } => self.aligned(header, Kind::Zero),
            Cluster::Standard { .. } if self.has_host_cluster(header) => self.aligned(header, Kind::Data),
            Cluster::Standard { .. } => Ok(Kind::Absent),
        }
    }

    /// Kind of one of the 32 subclusters.
    pub(crate) fn subcluster_kind(self, index: u64, header: &Header) -> Result<Kind, ImageError> {
        if self.is_compressed() {
            return Ok(Kind::Data);
        }
        let (allocated, zero) = (self.bitmap >> index & 1 != 0, self.bitmap >> (32 + index) & 1 != 0);
        match (allocated, zero) {
            (true, true) => bad("subcluster both allocated and zero"),
            (true, false) if self.has_host_cluster(header) => self.aligned(header, Kind::Data),
            (true, false) => bad("allocated subcluster without a host cluster"),
            (false, true) => Ok(Kind::Zero),
            (false, false) => Ok(Kind::Absent),
        }
    }
}
