//! Bytes to [`Header`], with every check that qemu-img makes when it opens an image, in its order: an image with several
//! defects is reported by the first one.

use alloc::vec::Vec;

use super::error::HeaderError;
use super::extension::{self, Context};
use super::feature;
use super::header::{
    Access, CompressionType, CryptMethod, Header, KNOWN_HEADER_BYTES, MAGIC, MAX_BACKING_NAME_BYTES, MAX_CLUSTER_BITS,
    MAX_L1_BYTES, MAX_READABLE_OFFSET, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, MIN_CLUSTER_BITS,
    SUBCLUSTERS_PER_CLUSTER, V3_MIN_HEADER_BYTES,
};
use super::snapshot::FIXED_ENTRY_BYTES;
use crate::bytes::{be_u32, be_u64};

/// What counts as the recorded length of a version 2 header, which records none.
const V2_HEADER_LENGTH: u32 = 72;
/// The largest offset that a file can have.
const MAX_FILE_OFFSET: u64 = i64::MAX.cast_unsigned();

impl Header {
    /// How many bytes of the file [`Header::parse`] needs: no more than `prefix` has, if header, extensions and backing name lie
    /// there, else the whole first cluster. `prefix` holds the first [`PREFIX_BYTES`](super::header::PREFIX_BYTES) bytes of the
    /// file.
    ///
    /// # Errors
    /// If it is no qcow2 image of a known version with a possible cluster size.
    pub fn needed_bytes(prefix: &[u8]) -> Result<usize, HeaderError> {
        let cluster_bytes = Self::first_cluster_bytes(prefix)?;
        let fits = Fields { bytes: prefix, cluster_bytes }.end_of_header().is_some_and(|end| end <= prefix.len());
        Ok(if fits { prefix.len().min(cluster_bytes) } else { cluster_bytes })
    }

    /// Size of the first cluster of the file, 512 to 2,097,152 bytes. `prefix` holds its first 512 bytes at least.
    ///
    /// # Errors
    /// If it is no qcow2 image of a known version with a possible cluster size.
    pub fn first_cluster_bytes(prefix: &[u8]) -> Result<usize, HeaderError> {
        if be_u32(prefix, 0) != Some(MAGIC) {
            return Err(HeaderError::NotQcow2);
        }
        let version = be_u32(prefix, 4).unwrap_or(0);
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let cluster_bits = be_u32(prefix, 20).unwrap_or(0);
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(HeaderError::ClusterBits(cluster_bits));
        }
        Ok(1 << cluster_bits)
    }

    /// Reads and checks a header. `first_cluster` holds the first [`Header::needed_bytes`] bytes of the file; what it lacks of
    /// the first cluster reads as zeros, as it does behind the end of a file.
    ///
    /// # Errors
    /// What qemu-img finds first.
    pub fn parse(first_cluster: &[u8], access: Access) -> Result<Self, HeaderError> {
        let cluster_bytes = Self::first_cluster_bytes(first_cluster)?;
        if first_cluster.len() < Self::needed_bytes(first_cluster)? {
            let mut padded = first_cluster.to_vec();
            padded.resize(cluster_bytes, 0);
            return Fields { bytes: &padded, cluster_bytes }.parse(access);
        }
        Fields { bytes: &first_cluster[..first_cluster.len().min(cluster_bytes)], cluster_bytes }.parse(access)
    }
}

/// A first cluster, complete or as far as the header needs it.
struct Fields<'a> {
    bytes: &'a [u8],
    cluster_bytes: usize,
}

impl Fields<'_> {
    /// Where the last of header, extensions and backing name ends; nothing where it takes more bytes to tell.
    fn end_of_header(&self) -> Option<usize> {
        let header_length = usize::try_from(if self.u32(4) == 3 { self.u32(100) } else { V2_HEADER_LENGTH }).ok()?;
        let name_start = usize::try_from(self.u64(8)).ok()?;
        let name_end = name_start.checked_add(usize::try_from(self.u32(16)).ok()?)?;
        let area_end = if name_start == 0 { self.cluster_bytes } else { name_start };
        let extensions_end = extension::end(self.bytes, header_length, area_end)?;
        let name_end = if name_start == 0 { 0 } else { name_end };
        Some(KNOWN_HEADER_BYTES.max(header_length).max(extensions_end).max(name_end))
    }

    // A first cluster has at least 512 bytes, so the offsets of fields always exist.
    fn u32(&self, offset: usize) -> u32 {
        be_u32(self.bytes, offset).unwrap_or(0)
    }

    fn u64(&self, offset: usize) -> u64 {
        be_u64(self.bytes, offset).unwrap_or(0)
    }

    fn parse(&self, access: Access) -> Result<Header, HeaderError> {
        let cluster_bytes = self.cluster_bytes;
        let mut header = self.read_without_checks()?;
        let header_length = usize::try_from(header.header_length_bytes).unwrap_or(usize::MAX);
        if header_length > cluster_bytes {
            return Err(HeaderError::HeaderExceedsCluster);
        }
        header.unknown_fields = self.bytes.get(KNOWN_HEADER_BYTES..header_length).unwrap_or_default().to_vec();
        let backing_offset = usize::try_from(header.backing_name_offset).unwrap_or(usize::MAX);
        if backing_offset > cluster_bytes {
            return Err(HeaderError::BackingOffset);
        }
        let extensions_end = if backing_offset == 0 { cluster_bytes } else { backing_offset };

        let compression_type = if header_length > 104 { self.bytes[104] } else { 0 };
        header.compression_type = check_compression(compression_type, header.incompatible_features)?;
        let unknown = header.incompatible_features & !feature::KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            let names = extension::find_feature_names(self.bytes, header_length, extensions_end, context(&header));
            return Err(HeaderError::UnsupportedFeatures(feature::describe_incompatible(unknown, &names)));
        }
        if access == Access::ReadWrite && header.is_corrupt() {
            return Err(HeaderError::Corrupt);
        }
        check_sizes(&header)?;
        check_tables(&header)?;
        header.crypt_method = match self.u32(32) {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            other => return Err(HeaderError::EncryptionMethod(other)),
        };
        header.extensions = extension::parse(self.bytes, header_length, extensions_end, context(&header))?;
        let needs_data_file = header.has_external_data_file() && access >= Access::ReadOnly;
        if needs_data_file && header.external_data_file_name().is_none() {
            return Err(HeaderError::DataFileRequired);
        }
        if header.crypt_method == CryptMethod::Luks && header.extensions.crypto_header.is_none() {
            return Err(HeaderError::CryptoHeaderMissing);
        }
        header.backing_name = self.backing_name(backing_offset)?;
        if header.virtual_size_bytes > MAX_READABLE_OFFSET {
            return Err(HeaderError::SizeTooLarge);
        }
        Ok(header)
    }

    fn read_without_checks(&self) -> Result<Header, HeaderError> {
        let version = self.u32(4);
        let is_v3 = version == 3;
        let v3_u64 = |offset| if is_v3 { self.u64(offset) } else { 0 };
        let header_length_bytes = if is_v3 { self.u32(100) } else { V2_HEADER_LENGTH };
        if is_v3 && usize::try_from(header_length_bytes).is_ok_and(|length| length < V3_MIN_HEADER_BYTES) {
            return Err(HeaderError::HeaderTooShort);
        }
        Ok(Header {
            version,
            backing_name_offset: self.u64(8),
            backing_name: None,
            cluster_bits: self.u32(20),
            virtual_size_bytes: self.u64(24),
            crypt_method: CryptMethod::None,
            l1_entries: self.u32(36),
            l1_offset: self.u64(40),
            refcount_table_offset: self.u64(48),
            refcount_table_clusters: self.u32(56),
            snapshot_count: self.u32(60),
            snapshots_offset: self.u64(64),
            incompatible_features: v3_u64(72),
            compatible_features: v3_u64(80),
            autoclear_features: v3_u64(88),
            refcount_order: if is_v3 { self.u32(96) } else { 4 },
            header_length_bytes,
            compression_type: CompressionType::Zlib,
            unknown_fields: Vec::new(),
            extensions: extension::Extensions::default(),
        })
    }

    fn backing_name(&self, offset: usize) -> Result<Option<Vec<u8>>, HeaderError> {
        if offset == 0 {
            return Ok(None);
        }
        let length = usize::try_from(self.u32(16)).unwrap_or(usize::MAX);
        let room = self.cluster_bytes.saturating_sub(offset).min(MAX_BACKING_NAME_BYTES);
        if length > room {
            return Err(HeaderError::BackingNameTooLong);
        }
        Ok(extension::string(&self.bytes[offset..offset + length]))
    }
}

fn context(header: &Header) -> Context {
    Context {
        cluster_size_bytes: header.cluster_size_bytes(),
        is_luks: header.crypt_method == CryptMethod::Luks,
        has_bitmaps_bit: header.autoclear_features & feature::BITMAPS != 0,
    }
}

fn check_compression(kind: u8, incompatible_features: u64) -> Result<CompressionType, HeaderError> {
    let has_bit = incompatible_features & feature::COMPRESSION_TYPE != 0;
    match (kind, has_bit) {
        (0, false) => Ok(CompressionType::Zlib),
        (0, true) => Err(HeaderError::CompressionBitUnexpected),
        (1, false) => Err(HeaderError::CompressionBitMissing),
        (1, true) => Ok(CompressionType::Zstd),
        (other, _) => Err(HeaderError::CompressionType(other)),
    }
}

fn check_sizes(header: &Header) -> Result<(), HeaderError> {
    if header.has_extended_l2() {
        let subcluster_bytes = (1u32 << header.cluster_bits) / SUBCLUSTERS_PER_CLUSTER;
        if subcluster_bytes < 1 << MIN_CLUSTER_BITS {
            return Err(HeaderError::SubclusterSize(subcluster_bytes));
        }
    }
    if header.refcount_order > 6 {
        return Err(HeaderError::RefcountWidth);
    }
    Ok(())
}

fn check_tables(header: &Header) -> Result<(), HeaderError> {
    if header.refcount_table_clusters == 0 {
        return Err(HeaderError::NoRefcountTable);
    }
    let is_table = |offset: u64, size_bytes: u64| {
        offset.is_multiple_of(header.cluster_size_bytes())
            && offset.checked_add(size_bytes).is_some_and(|end| end <= MAX_FILE_OFFSET)
    };
    if header.refcount_table_bytes() > MAX_REFCOUNT_TABLE_BYTES {
        return Err(HeaderError::RefcountTableTooLarge);
    }
    if !is_table(header.refcount_table_offset, header.refcount_table_bytes()) {
        return Err(HeaderError::RefcountTableOffset);
    }
    if header.snapshot_count > MAX_SNAPSHOTS {
        return Err(HeaderError::SnapshotTableTooLarge);
    }
    if !is_table(header.snapshots_offset, u64::from(header.snapshot_count) * FIXED_ENTRY_BYTES as u64) {
        return Err(HeaderError::SnapshotTableOffset);
    }
    let l1_bytes = u64::from(header.l1_entries) * 8;
    if l1_bytes > MAX_L1_BYTES {
        return Err(HeaderError::L1TooLarge);
    }
    if !is_table(header.l1_offset, l1_bytes) {
        return Err(HeaderError::L1Offset);
    }
    // A size so large that rounding it up overflows is found by another check, last of all.
    let rounds_up = header.virtual_size_bytes.checked_add(header.l1_entry_span_bytes() - 1).is_some();
    let needed = if rounds_up { header.l1_entries_needed() } else { 0 };
    if needed > u64::from(i32::MAX.cast_unsigned()) {
        return Err(HeaderError::ImageTooBig);
    }
    if u64::from(header.l1_entries) < needed {
        return Err(HeaderError::L1TooSmall);
    }
    if header.l1_offset + l1_bytes > MAX_READABLE_OFFSET {
        return Err(HeaderError::L1Unreadable);
    }
    if header.refcount_table_offset + header.refcount_table_bytes() > MAX_READABLE_OFFSET {
        return Err(HeaderError::RefcountTableUnreadable);
    }
    Ok(())
}
