//! What can be wrong with a qcow2 header, in the words that users of this kind of tool know.

use alloc::string::String;
use core::fmt;

use super::extension::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS};

/// A qcow2 header that cannot be used. `Display` gives the text without the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic is another one, or the file is too short to have one.
    NotQcow2,
    /// A version other than 2 and 3.
    Version(u32),
    /// Clusters below 512 bytes or above 2 MiB.
    ClusterBits(u32),
    /// A header shorter than 104 bytes (version 3).
    HeaderTooShort,
    /// A header longer than a cluster.
    HeaderExceedsCluster,
    /// The backing name would begin behind the first cluster.
    BackingOffset,
    /// A compression type other than zlib needs the feature bit.
    CompressionBitMissing,
    /// Compression type zlib must not have the feature bit.
    CompressionBitUnexpected,
    /// A compression type that is neither zlib nor zstd.
    CompressionType(u8),
    /// Incompatible features that are not understood, described.
    UnsupportedFeatures(String),
    /// The image is marked corrupt and would be written to.
    Corrupt,
    /// Subclusters below 512 bytes.
    SubclusterSize(u32),
    /// Refcounts wider than 64 bits.
    RefcountWidth,
    /// An encryption method other than AES and LUKS.
    EncryptionMethod(u32),
    /// No refcount table.
    NoRefcountTable,
    /// More than 8 MiB of refcount table.
    RefcountTableTooLarge,
    /// A refcount table that is not aligned to clusters, or beyond the largest file.
    RefcountTableOffset,
    /// More than 65,536 snapshots.
    SnapshotTableTooLarge,
    /// A snapshot table that is not aligned to clusters, or beyond the largest file.
    SnapshotTableOffset,
    /// More than 32 MiB of L1 table.
    L1TooLarge,
    /// An L1 table that is not aligned to clusters, or beyond the largest file.
    L1Offset,
    /// A disk that needs more L1 entries than can be counted.
    ImageTooBig,
    /// Fewer L1 entries than the disk needs.
    L1TooSmall,
    /// An L1 table where no file can have data.
    L1Unreadable,
    /// A refcount table where no file can have data.
    RefcountTableUnreadable,
    /// An extension that does not fit in front of the backing name or into the first cluster.
    ExtensionTooLarge,
    /// A backing format name of 16 or more bytes.
    BackingFormatTooLong {
        /// Its length.
        length_bytes: usize,
    },
    /// An encryption header in an image that is not encrypted with LUKS.
    CryptoHeaderWithoutLuks,
    /// An encryption header pointer that is not 16 bytes long.
    CryptoHeaderLength {
        /// Its length.
        length_bytes: usize,
    },
    /// An encryption header that is not aligned to clusters.
    CryptoHeaderOffset {
        /// Where it would lie.
        offset: u64,
        /// The cluster size.
        cluster_size_bytes: u64,
    },
    /// A bitmaps extension that is not 24 bytes long.
    BitmapsLength,
    /// A reserved field of the bitmaps extension is in use.
    BitmapsReserved,
    /// More bitmaps than [`MAX_BITMAPS`].
    TooManyBitmaps {
        /// How many.
        count: u32,
    },
    /// A bitmaps extension without bitmaps.
    ZeroBitmaps,
    /// A bitmap directory that is not aligned to clusters.
    BitmapDirectoryOffset,
    /// A bitmap directory longer than [`MAX_BITMAP_DIRECTORY_BYTES`].
    BitmapDirectoryTooLarge {
        /// Its length.
        size_bytes: u64,
    },
    /// An external data file without a name.
    DataFileRequired,
    /// Encryption with LUKS without an encryption header.
    CryptoHeaderMissing,
    /// A backing name of more than 1023 bytes, or one that leaves the first cluster.
    BackingNameTooLong,
    /// A disk larger than any file can be.
    SizeTooLarge,
}

impl HeaderError {
    /// Whether the image may well be sound, but asks for what is not supported.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Version(_) | Self::CompressionType(_) | Self::UnsupportedFeatures(_) | Self::EncryptionMethod(_)
        )
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotQcow2 => "Image is not in qcow2 format",
            Self::Version(version) => return write!(f, "Unsupported qcow2 version {version}"),
            Self::ClusterBits(bits) => return write!(f, "Unsupported cluster size: 2^{bits}"),
            Self::HeaderTooShort => "qcow2 header too short",
            Self::HeaderExceedsCluster => "qcow2 header exceeds cluster size",
            Self::BackingOffset => "Invalid backing file offset",
            Self::CompressionBitMissing => "qcow2: Compression type incompatible feature bit must be set",
            Self::CompressionBitUnexpected => "qcow2: Compression type incompatible feature bit must not be set",
            Self::CompressionType(kind) => return write!(f, "qcow2: unknown compression type: {kind}"),
            Self::UnsupportedFeatures(list) => return write!(f, "Unsupported qcow2 feature(s): {list}"),
            Self::Corrupt => "qcow2: Image is corrupt; cannot be opened read/write",
            Self::SubclusterSize(bytes) => return write!(f, "Unsupported subcluster size: {bytes}"),
            Self::RefcountWidth => "Reference count entry width too large; may not exceed 64 bits",
            // Shown as a signed number, as everywhere else.
            Self::EncryptionMethod(method) => {
                return write!(f, "Unsupported encryption method {}", method.cast_signed());
            }
            Self::NoRefcountTable => "Image does not contain a reference count table",
            Self::RefcountTableTooLarge => "Reference count table too large",
            Self::RefcountTableOffset => "Reference count table offset invalid",
            Self::SnapshotTableTooLarge => "Snapshot table too large",
            Self::SnapshotTableOffset => "Snapshot table offset invalid",
            Self::L1TooLarge => "Active L1 table too large",
            Self::L1Offset => "Active L1 table offset invalid",
            Self::ImageTooBig => "Image is too big",
            Self::L1TooSmall => "L1 table is too small",
            Self::L1Unreadable => "Could not read L1 table: Input/output error",
            Self::RefcountTableUnreadable => "Could not initialize refcount handling: Input/output error",
            Self::ExtensionTooLarge => "Header extension too large",
            Self::BackingFormatTooLong { length_bytes } => {
                return write!(f, "ERROR: ext_backing_format: len={length_bytes} too large (>=16)");
            }
            Self::CryptoHeaderWithoutLuks => "CRYPTO header extension only expected with LUKS encryption method",
            Self::CryptoHeaderLength { length_bytes } => {
                return write!(f, "CRYPTO header extension size {length_bytes}, but expected size 16");
            }
            Self::CryptoHeaderOffset { offset, cluster_size_bytes } => {
                return write!(
                    f,
                    "Encryption header offset '{offset}' is not a multiple of cluster size '{cluster_size_bytes}'"
                );
            }
            Self::BitmapsLength => "bitmaps_ext: Invalid extension length",
            Self::BitmapsReserved => "bitmaps_ext: Reserved field is not zero",
            Self::TooManyBitmaps { count } => {
                return write!(
                    f,
                    "bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}"
                );
            }
            Self::ZeroBitmaps => "found bitmaps extension with zero bitmaps",
            Self::BitmapDirectoryOffset => "bitmaps_ext: invalid bitmap directory offset",
            Self::BitmapDirectoryTooLarge { size_bytes } => {
                return write!(
                    f,
                    "bitmaps_ext: bitmap directory size ({size_bytes}) exceeds the maximum supported size \
                     ({MAX_BITMAP_DIRECTORY_BYTES})"
                );
            }
            Self::DataFileRequired => "'data-file' is required for this image",
            Self::CryptoHeaderMissing => "Missing CRYPTO header for crypt method 2",
            Self::BackingNameTooLong => "Backing file name too long",
            Self::SizeTooLarge => "Could not refresh total sector count: File too large",
        })
    }
}

impl core::error::Error for HeaderError {}
