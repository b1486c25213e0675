//! [`Header`] to the bytes of a whole first cluster, as qemu-img writes it when it changes anything in a header: unknown
//! fields and extensions survive, everything else that stood in the cluster is erased.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use super::extension::{
    BACKING_FORMAT, BITMAPS, CRYPTO_HEADER, DATA_FILE_NAME, END, FEATURE_NAMES, MAX_BACKING_FORMAT_BYTES,
};
use super::feature;
use super::header::{
    CompressionType, CryptMethod, Header, KNOWN_HEADER_BYTES, MAGIC, MAX_BACKING_NAME_BYTES, V2_HEADER_BYTES,
};

/// Clusters up to this size have no room to spare for the feature name table; qemu-img's rule.
const MAX_CLUSTER_WITHOUT_FEATURE_NAMES_BYTES: u64 = 4096;

/// Why a header cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The backing name has more than 1023 bytes.
    NameTooLong,
    /// The header, its extensions and the backing name do not fit into the first cluster.
    NoRoom,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameTooLong => "Invalid argument",
            Self::NoRoom => "No space left in the file header",
        })
    }
}

impl core::error::Error for EncodeError {}

/// What a first cluster need not have, and where its backing name goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Leave the names of feature bits out.
    pub without_feature_names: bool,
    /// Where the backing name begins, in bytes; right behind the extensions if not given.
    pub name_offset: Option<usize>,
}

/// A first cluster and what lies where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstCluster {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// Where the extensions end, their end mark included.
    pub extensions_end: usize,
    /// The backing name's bytes; empty if there is none.
    pub name: Range<usize>,
}

/// As [`encode_first_cluster`], in another layout.
///
/// # Errors
/// As [`encode_first_cluster`]; also if the extensions reach beyond the place of the name.
pub fn encode_first_cluster_as(header: &Header, layout: Layout) -> Result<FirstCluster, EncodeError> {
    let name = header.backing_name.as_deref().unwrap_or_default();
    if name.len() > MAX_BACKING_NAME_BYTES {
        return Err(EncodeError::NameTooLong);
    }
    let mut cluster = Cluster { bytes: vec![0; 1 << header.cluster_bits], end: 0 };
    let header_length = put_fixed_part(header, &mut cluster)?;
    put_extensions(header, layout, &mut cluster)?;
    let extensions_end = cluster.end;
    let name_offset = layout.name_offset.unwrap_or(extensions_end);
    if name_offset < extensions_end && !name.is_empty() {
        return Err(EncodeError::NoRoom);
    }
    cluster.end = name_offset;
    cluster.put(name)?;
    let mut bytes = cluster.bytes;
    if !name.is_empty() {
        // Both fit: the cluster has at most 2 MiB.
        put_u64(&mut bytes, 8, name_offset as u64);
        put_u32(&mut bytes, 16, u32::try_from(name.len()).map_err(|_| EncodeError::NameTooLong)?);
    }
    if header.version >= 3 {
        put_u32(&mut bytes, 100, u32::try_from(header_length).map_err(|_| EncodeError::NoRoom)?);
    }
    Ok(FirstCluster { bytes, extensions_end, name: name_offset..name_offset + name.len() })
}

/// The bytes of the first cluster for `header`.
///
/// What decides is: `version`, the typed fields, `unknown_fields`, and `extensions` except its feature names, which are
/// replaced by the tool's own. `backing_name_offset` and `header_length_bytes` are computed anew; unknown extensions
/// come out in reverse order; a backing format longer than 15 bytes is cut. Feature bits are written as they are:
/// clearing unknown autoclear bits is the caller's step.
///
/// # Errors
/// If the backing name is too long or the whole does not fit into a cluster.
pub fn encode_first_cluster(header: &Header) -> Result<Vec<u8>, EncodeError> {
    encode_first_cluster_as(header, Layout::default()).map(|cluster| cluster.bytes)
}

/// A cluster that is filled from its start.
struct Cluster {
    bytes: Vec<u8>,
    end: usize,
}

impl Cluster {
    fn put(&mut self, data: &[u8]) -> Result<(), EncodeError> {
        let end = self.end.checked_add(data.len()).ok_or(EncodeError::NoRoom)?;
        self.bytes.get_mut(self.end..end).ok_or(EncodeError::NoRoom)?.copy_from_slice(data);
        self.end = end;
        Ok(())
    }

    fn put_extension(&mut self, kind: u32, data: &[u8]) -> Result<(), EncodeError> {
        self.put(&kind.to_be_bytes())?;
        self.put(&u32::try_from(data.len()).map_err(|_| EncodeError::NoRoom)?.to_be_bytes())?;
        self.put(data)?;
        let padding = data.len().next_multiple_of(8) - data.len();
        self.put(&[0; 8][..padding])
    }
}

fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
}

/// Writes the header fields and gives their length.
fn put_fixed_part(header: &Header, cluster: &mut Cluster) -> Result<usize, EncodeError> {
    let mut fixed = [0; KNOWN_HEADER_BYTES];
    put_u32(&mut fixed, 0, MAGIC);
    put_u32(&mut fixed, 4, header.version);
    put_u32(&mut fixed, 20, header.cluster_bits);
    put_u64(&mut fixed, 24, header.virtual_size_bytes);
    let crypt_method = match header.crypt_method {
        CryptMethod::None => 0,
        CryptMethod::Aes => 1,
        CryptMethod::Luks => 2,
    };
    put_u32(&mut fixed, 32, crypt_method);
    put_u32(&mut fixed, 36, header.l1_entries);
    put_u64(&mut fixed, 40, header.l1_offset);
    put_u64(&mut fixed, 48, header.refcount_table_offset);
    put_u32(&mut fixed, 56, header.refcount_table_clusters);
    put_u32(&mut fixed, 60, header.snapshot_count);
    put_u64(&mut fixed, 64, header.snapshots_offset);
    if header.version < 3 {
        cluster.put(&fixed[..V2_HEADER_BYTES])?;
        return Ok(V2_HEADER_BYTES);
    }
    put_u64(&mut fixed, 72, header.incompatible_features);
    put_u64(&mut fixed, 80, header.compatible_features);
    put_u64(&mut fixed, 88, header.autoclear_features);
    put_u32(&mut fixed, 96, header.refcount_order);
    fixed[104] = match header.compression_type {
        CompressionType::Zlib => 0,
        CompressionType::Zstd => 1,
    };
    cluster.put(&fixed)?;
    cluster.put(&header.unknown_fields)?;
    Ok(cluster.end)
}

fn put_extensions(header: &Header, layout: Layout, cluster: &mut Cluster) -> Result<(), EncodeError> {
    let extensions = &header.extensions;
    if let Some(format) = &extensions.backing_format {
        cluster.put_extension(BACKING_FORMAT, &format[..format.len().min(MAX_BACKING_FORMAT_BYTES)])?;
    }
    if let Some(name) = &extensions.data_file_name {
        cluster.put_extension(DATA_FILE_NAME, name)?;
    }
    if let Some(pointer) = extensions.crypto_header {
        let mut data = [0; 16];
        put_u64(&mut data, 0, pointer.offset);
        put_u64(&mut data, 8, pointer.length_bytes);
        cluster.put_extension(CRYPTO_HEADER, &data)?;
    }
    let has_room = header.version >= 3 && header.cluster_size_bytes() > MAX_CLUSTER_WITHOUT_FEATURE_NAMES_BYTES;
    if has_room && !layout.without_feature_names {
        cluster.put_extension(FEATURE_NAMES, &feature::own_table())?;
    }
    if let Some(bitmaps) = extensions.bitmaps {
        let mut data = [0; 24];
        put_u32(&mut data, 0, bitmaps.count);
        put_u64(&mut data, 8, bitmaps.directory_size_bytes);
        put_u64(&mut data, 16, bitmaps.directory_offset);
        cluster.put_extension(BITMAPS, &data)?;
    }
    for unknown in extensions.unknown.iter().rev() {
        cluster.put_extension(unknown.kind, &unknown.data)?;
    }
    cluster.put_extension(END, &[])
}
