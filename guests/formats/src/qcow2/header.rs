//! The qcow2 header as a typed value (qcow2.txt, "Header"). Parsing and its checks are in [`parse`](super::parse).

use alloc::vec::Vec;

use super::extension::Extensions;
use super::feature;

/// "QFI" and 0xfb.
pub const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header in bytes.
pub const V2_HEADER_BYTES: usize = 72;
/// Length of the shortest version 3 header in bytes.
pub const V3_MIN_HEADER_BYTES: usize = 104;
/// Length of the header fields that are understood, in bytes; also what a rewritten version 3 header has at least.
pub const KNOWN_HEADER_BYTES: usize = 112;
/// How many bytes of a file [`Header::needed_bytes`] wants to see: as a rule all that a header takes.
pub const PREFIX_BYTES: usize = 4096;
/// Smallest cluster size, as a power of two; the format's limit.
pub const MIN_CLUSTER_BITS: u32 = 9;
/// Largest cluster size, as a power of two; qemu-img's limit.
pub const MAX_CLUSTER_BITS: u32 = 21;
/// Longest backing name in bytes; the format's limit.
pub const MAX_BACKING_NAME_BYTES: usize = 1023;
/// Most snapshots; qemu-img's limit.
pub const MAX_SNAPSHOTS: u32 = 65_536;
/// Longest L1 table in bytes; qemu-img's limit.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// Longest refcount table in bytes; qemu-img's limit.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Where every file ends at the latest, for reading and for disk sizes; qemu-img's limit.
pub const MAX_READABLE_OFFSET: u64 = i64::MAX.cast_unsigned() & !((1 << 30) - 1);
/// Subclusters of a cluster with extended L2 entries.
pub const SUBCLUSTERS_PER_CLUSTER: u32 = 32;

/// What the image is opened for; the more, the more has to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Only metadata will be read.
    Inspect,
    /// Guest data will be read: an external data file must be named.
    ReadOnly,
    /// Metadata or data will be written: the image must not be marked corrupt.
    ReadWrite,
}

/// How guest data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptMethod {
    /// 0: not at all.
    None,
    /// 1: AES-CBC with the password as key.
    Aes,
    /// 2: LUKS version 1; the LUKS header lies in the image.
    Luks,
}

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// 0: raw deflate.
    Zlib,
    /// 1: zstd frames.
    Zstd,
}

/// A header whose every field is within the limits of the format and of qemu-img.
///
/// Byte offsets beside the fields are those in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 4: 2 or 3.
    pub version: u32,
    /// 8: where the backing name lies; 0 where there is none.
    pub backing_name_offset: u64,
    /// The backing name as recorded, 1 to 1023 bytes, up to its first zero byte; not necessarily UTF-8.
    pub backing_name: Option<Vec<u8>>,
    /// 20: 9 to 21.
    pub cluster_bits: u32,
    /// 24: size of the guest's disk; need not be a multiple of 512.
    pub virtual_size_bytes: u64,
    /// 32: encryption.
    pub crypt_method: CryptMethod,
    /// 36: entries of the active L1 table, at least [`Header::l1_entries_needed`], at most 4,194,304.
    pub l1_entries: u32,
    /// 40: where the active L1 table lies; a multiple of the cluster size.
    pub l1_offset: u64,
    /// 48: where the refcount table lies; a multiple of the cluster size.
    pub refcount_table_offset: u64,
    /// 56: length of the refcount table in clusters, at least 1, at most 8 MiB altogether.
    pub refcount_table_clusters: u32,
    /// 60: number of internal snapshots, at most [`MAX_SNAPSHOTS`].
    pub snapshot_count: u32,
    /// 64: where the snapshot table lies; a multiple of the cluster size.
    pub snapshots_offset: u64,
    /// 72: bits of [`feature`]; all known. 0 in version 2.
    pub incompatible_features: u64,
    /// 80: bits of [`feature`] and possibly others. 0 in version 2.
    pub compatible_features: u64,
    /// 88: bits of [`feature`] and possibly others, which a writer must clear. 0 in version 2.
    pub autoclear_features: u64,
    /// 96: width of a refcount in bits as a power of two, 0 to 6; 4 in version 2.
    pub refcount_order: u32,
    /// 100: length of the header in bytes as recorded; 72 in version 2.
    pub header_length_bytes: u32,
    /// 104: compression of compressed clusters.
    pub compression_type: CompressionType,
    /// 112 up to the header's length: fields that are not understood, which a writer keeps.
    pub unknown_fields: Vec<u8>,
    /// What follows the header.
    pub extensions: Extensions,
}

impl Header {
    /// Size of a cluster.
    pub fn cluster_size_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Size of the unit of allocation: a subcluster where there are any, otherwise a cluster.
    pub fn subcluster_size_bytes(&self) -> u64 {
        if self.has_extended_l2() {
            self.cluster_size_bytes() / u64::from(SUBCLUSTERS_PER_CLUSTER)
        } else {
            self.cluster_size_bytes()
        }
    }

    /// Width of a refcount in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// Length of an L2 entry in bytes: 8, or 16 with extended L2 entries.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.has_extended_l2() { 16 } else { 8 }
    }

    /// Entries of an L2 table, which always fills one cluster.
    pub fn l2_entries_per_table(&self) -> u64 {
        self.cluster_size_bytes() / self.l2_entry_bytes()
    }

    /// Guest bytes that one L1 entry stands for.
    pub fn l1_entry_span_bytes(&self) -> u64 {
        // At most 2^21 * 2^18.
        self.cluster_size_bytes() * self.l2_entries_per_table()
    }

    /// L1 entries that a disk of this size needs.
    pub fn l1_entries_needed(&self) -> u64 {
        self.virtual_size_bytes.div_ceil(self.l1_entry_span_bytes())
    }

    /// Length of the refcount table in bytes.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster_bits
    }

    /// Whether the refcounts may be stale.
    pub fn is_dirty(&self) -> bool {
        self.incompatible_features & feature::DIRTY != 0
    }

    /// Whether the metadata is known to be broken.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible_features & feature::CORRUPT != 0
    }

    /// Whether guest data lies in another file.
    pub fn has_external_data_file(&self) -> bool {
        self.incompatible_features & feature::EXTERNAL_DATA_FILE != 0
    }

    /// Whether that other file is, by itself, a raw image of the guest's disk.
    pub fn has_raw_external_data_file(&self) -> bool {
        self.has_external_data_file() && self.autoclear_features & feature::RAW_EXTERNAL_DATA != 0
    }

    /// The name of that other file, not empty; a name without the feature means nothing.
    pub fn external_data_file_name(&self) -> Option<&[u8]> {
        self.extensions.data_file_name.as_deref().filter(|name| self.has_external_data_file() && !name.is_empty())
    }

    /// Whether L2 entries carry subcluster bitmaps.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible_features & feature::EXTENDED_L2 != 0
    }

    /// Whether refcounts may be written late.
    pub fn has_lazy_refcounts(&self) -> bool {
        self.compatible_features & feature::LAZY_REFCOUNTS != 0
    }

    /// Whether guest data is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.crypt_method != CryptMethod::None
    }

    /// Whether there are autoclear bits that a writer must clear because it does not understand them.
    pub fn has_unknown_autoclear(&self) -> bool {
        self.autoclear_features & !feature::KNOWN_AUTOCLEAR != 0
    }
}
