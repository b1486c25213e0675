//! Where things lie in a qcow2 image: arithmetic on cluster sizes, table coverage and refcount block coverage.
//!
//! Source: qcow2 format document, sections "Header", "Host cluster management" and "Cluster mapping".

/// Sizes that follow from the header and never change while an image is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Base-2 logarithm of the cluster size in bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Base-2 logarithm of the refcount width in bits: 0 to 6.
    pub refcount_order: u32,
    /// Whether L2 entries are 128 bits wide and describe 32 subclusters.
    pub extended_l2: bool,
    /// Version of the format: 2 has no zero clusters.
    pub version: u32,
    /// Whether guest data lies in an external data file, where host offset 0 is a place like any other.
    pub external_data: bool,
}

impl Geometry {
    /// Cluster size in bytes.
    #[must_use]
    pub const fn cluster_size_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Length of one L2 entry in bytes: 8, or 16 when extended.
    #[must_use]
    pub const fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Number of entries in an L2 table, which is always one cluster long.
    #[must_use]
    pub const fn l2_entries(&self) -> u64 {
        self.cluster_size_bytes() / self.l2_entry_bytes()
    }

    /// Bytes of the disk that one L2 table describes: at most 2^39.
    #[must_use]
    pub const fn l2_coverage_bytes(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Number of separately allocated parts of a cluster: 32 when extended, else 1.
    #[must_use]
    pub const fn subclusters(&self) -> u32 {
        if self.extended_l2 { 32 } else { 1 }
    }

    /// Length of a subcluster in bytes; the cluster size where there are none.
    #[must_use]
    pub const fn subcluster_size_bytes(&self) -> u64 {
        self.cluster_size_bytes() / self.subclusters() as u64
    }

    /// Width of a refcount in bits.
    #[must_use]
    pub const fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// The largest refcount that fits.
    #[must_use]
    pub const fn refcount_max(&self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// Number of refcounts in a refcount block, which is always one cluster long.
    #[must_use]
    pub const fn refcount_block_entries(&self) -> u64 {
        self.cluster_size_bytes() * 8 / self.refcount_bits() as u64
    }

    /// Index of the L1 entry for a guest offset.
    #[must_use]
    pub const fn l1_index(&self, guest_offset: u64) -> u64 {
        guest_offset / self.l2_coverage_bytes()
    }

    /// Index within its L2 table of the entry for a guest offset.
    #[must_use]
    pub const fn l2_index(&self, guest_offset: u64) -> u64 {
        (guest_offset >> self.cluster_bits) % self.l2_entries()
    }

    /// Number of L1 entries that a disk of `size_bytes` needs.
    #[must_use]
    pub const fn l1_entries_for(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.l2_coverage_bytes())
    }

    /// Number of clusters that `length_bytes` take up.
    #[must_use]
    pub const fn clusters_for(&self, length_bytes: u64) -> u64 {
        length_bytes.div_ceil(self.cluster_size_bytes())
    }

    /// Index of the cluster that holds a host or guest offset.
    #[must_use]
    pub const fn cluster_index(&self, offset: u64) -> u64 {
        offset >> self.cluster_bits
    }

    /// Offset within its cluster.
    #[must_use]
    pub const fn offset_in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size_bytes() - 1)
    }

    /// Whether an offset is the start of a cluster.
    #[must_use]
    pub const fn is_cluster_aligned(&self, offset: u64) -> bool {
        self.offset_in_cluster(offset) == 0
    }
}

impl super::Header {
    /// The sizes that follow from this header.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry {
            cluster_bits: self.cluster_bits,
            refcount_order: self.refcount_order,
            extended_l2: self.has_extended_l2(),
            version: self.version,
            external_data: self.has_external_data_file(),
        }
    }
}
