//! The header extensions of qcow2 (qcow2.txt, "Header extensions"): a list of type, length and data behind the header.

use alloc::vec::Vec;

use super::error::HeaderError;
use super::feature::{self, FeatureName};
use super::header::Header;
use crate::bytes::{be_u32, be_u64, until_zero};

/// End of the list.
pub const END: u32 = 0;
/// The backing file's format name.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The external data file's name.
pub const DATA_FILE_NAME: u32 = 0x4441_5441;
/// Where the LUKS header lies.
pub const CRYPTO_HEADER: u32 = 0x0537_be77;
/// Names of feature bits.
pub const FEATURE_NAMES: u32 = 0x6803_f857;
/// Where the bitmap directory lies.
pub const BITMAPS: u32 = 0x2385_2875;

/// The longest backing format name in bytes; qemu-img's limit.
pub const MAX_BACKING_FORMAT_BYTES: usize = 15;
/// The most bitmaps of an image; qemu-img's limit.
pub const MAX_BITMAPS: u32 = 65_535;
/// The longest bitmap directory in bytes; qemu-img's limit: 1024 bytes for each of [`MAX_BITMAPS`].
pub const MAX_BITMAP_DIRECTORY_BYTES: u64 = 1024 * MAX_BITMAPS as u64;

/// The bitmaps extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsPointer {
    /// Number of bitmaps, 1 to [`MAX_BITMAPS`].
    pub count: u32,
    /// Length of the directory in bytes, at most [`MAX_BITMAP_DIRECTORY_BYTES`].
    pub directory_size_bytes: u64,
    /// Where the directory lies; a multiple of the cluster size.
    pub directory_offset: u64,
}

/// The full disk encryption header pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoHeaderPointer {
    /// Where the LUKS header lies; a multiple of the cluster size.
    pub offset: u64,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// An extension that is not understood; it must survive a rewrite of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownExtension {
    /// The type number.
    pub kind: u32,
    /// The data, without padding.
    pub data: Vec<u8>,
}

/// All extensions of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The backing format name, up to [`MAX_BACKING_FORMAT_BYTES`] bytes; `None` if absent or empty.
    pub backing_format: Option<Vec<u8>>,
    /// The external data file's name, possibly empty; see [`Header::external_data_file_name`](super::Header::external_data_file_name).
    pub data_file_name: Option<Vec<u8>>,
    /// Where the LUKS header lies.
    pub crypto_header: Option<CryptoHeaderPointer>,
    /// Where the bitmaps lie; `None` also where a writer without bitmap support has cleared their autoclear bit.
    pub bitmaps: Option<BitmapsPointer>,
    /// The image's own names of feature bits.
    pub feature_names: Vec<FeatureName>,
    /// What is not understood, in order of appearance.
    pub unknown: Vec<UnknownExtension>,
}

/// What the extensions mean depends on these parts of the header in front of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) cluster_size_bytes: u64,
    pub(crate) is_luks: bool,
    pub(crate) has_bitmaps_bit: bool,
}

/// The extensions in `bytes[start..end]` without their meaning: type and data.
struct Entries<'a> {
    bytes: &'a [u8],
    offset: usize,
    end: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(u32, &'a [u8]), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.end {
            return None;
        }
        // The last head may reach past the end of the area, but not past the bytes; there it reads as zeros.
        let kind = be_u32(self.bytes, self.offset).unwrap_or(END);
        let length_bytes = be_u32(self.bytes, self.offset + 4).unwrap_or(0);
        let data_offset = self.offset + 8;
        let data = usize::try_from(length_bytes)
            .ok()
            .and_then(|length| data_offset.checked_add(length))
            .filter(|&data_end| data_end <= self.end)
            .and_then(|data_end| self.bytes.get(data_offset..data_end));
        let Some(data) = data else {
            self.offset = self.end;
            return Some(Err(HeaderError::ExtensionTooLarge));
        };
        if kind == END {
            self.offset = self.end;
            return None;
        }
        self.offset = data_offset + data.len().next_multiple_of(8);
        Some(Ok((kind, data)))
    }
}

/// Feature names only, as far as the extensions can be read: they explain why an image is refused.
pub(crate) fn find_feature_names(bytes: &[u8], start: usize, end: usize, context: Context) -> Vec<FeatureName> {
    let mut extensions = Extensions::default();
    // What is wrong with the extensions does not matter any more.
    let _ = parse_into(&mut extensions, Entries { bytes, offset: start, end }, context);
    extensions.feature_names
}

/// The extensions that follow a header in its first cluster.
fn entries_behind<'a>(first_cluster: &'a [u8], header: &Header) -> Option<Entries<'a>> {
    let offset = usize::try_from(header.header_length_bytes).ok()?;
    let end = match usize::try_from(header.backing_name_offset).ok()? {
        0 => first_cluster.len(),
        name => name,
    };
    Some(Entries { bytes: first_cluster, offset, end })
}

/// Where the data of the bitmaps extension begins in the file, given the first cluster and its header.
#[must_use]
pub fn bitmaps_data_offset(first_cluster: &[u8], header: &Header) -> Option<u64> {
    let mut entries = entries_behind(first_cluster, header)?;
    loop {
        let head = entries.offset as u64;
        if entries.next()?.ok()?.0 == BITMAPS {
            return Some(head + 8);
        }
    }
}

/// Where the extensions end, their end mark included, given the first cluster and its header; `None` if they cannot be read.
#[must_use]
pub fn extensions_end(first_cluster: &[u8], header: &Header) -> Option<usize> {
    let entries = entries_behind(first_cluster, header)?;
    end(first_cluster, entries.offset, entries.end)
}

/// Where the extensions in `bytes[start..end]` end, their end mark included; nothing if they cannot be read or go on behind
/// `bytes`.
pub(crate) fn end(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let mut entries = Entries { bytes, offset: start, end };
    loop {
        let head = entries.offset;
        match entries.next() {
            Some(entry) => entry.ok().map(drop)?,
            None => return Some(head.saturating_add(8).min(end)),
        }
    }
}

/// Reads the extensions in `bytes[start..end]`.
pub(crate) fn parse(bytes: &[u8], start: usize, end: usize, context: Context) -> Result<Extensions, HeaderError> {
    let mut extensions = Extensions::default();
    parse_into(&mut extensions, Entries { bytes, offset: start, end }, context)?;
    Ok(extensions)
}

fn parse_into(extensions: &mut Extensions, entries: Entries<'_>, context: Context) -> Result<(), HeaderError> {
    for entry in entries {
        let (kind, data) = entry?;
        match kind {
            BACKING_FORMAT => extensions.backing_format = parse_backing_format(data)?,
            DATA_FILE_NAME => extensions.data_file_name = Some(until_zero(data).to_vec()),
            FEATURE_NAMES => extensions.feature_names = feature::parse_names(data),
            CRYPTO_HEADER => extensions.crypto_header = Some(parse_crypto_header(data, context)?),
            BITMAPS => extensions.bitmaps = parse_bitmaps(data, context)?,
            _ => extensions.unknown.push(UnknownExtension { kind, data: data.to_vec() }),
        }
    }
    Ok(())
}

/// A string that ends at its first zero byte; `None` if nothing is left.
pub(crate) fn string(data: &[u8]) -> Option<Vec<u8>> {
    Some(until_zero(data)).filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

fn parse_backing_format(data: &[u8]) -> Result<Option<Vec<u8>>, HeaderError> {
    if data.len() > MAX_BACKING_FORMAT_BYTES {
        return Err(HeaderError::BackingFormatTooLong { length_bytes: data.len() });
    }
    Ok(string(data))
}

fn parse_crypto_header(data: &[u8], context: Context) -> Result<CryptoHeaderPointer, HeaderError> {
    if !context.is_luks {
        return Err(HeaderError::CryptoHeaderWithoutLuks);
    }
    let (Some(offset), Some(length_bytes), 16) = (be_u64(data, 0), be_u64(data, 8), data.len()) else {
        return Err(HeaderError::CryptoHeaderLength { length_bytes: data.len() });
    };
    if !offset.is_multiple_of(context.cluster_size_bytes) {
        return Err(HeaderError::CryptoHeaderOffset { offset, cluster_size_bytes: context.cluster_size_bytes });
    }
    Ok(CryptoHeaderPointer { offset, length_bytes })
}

fn parse_bitmaps(data: &[u8], context: Context) -> Result<Option<BitmapsPointer>, HeaderError> {
    let (Some(count), Some(reserved), Some(directory_size_bytes), Some(directory_offset), 24) =
        (be_u32(data, 0), be_u32(data, 4), be_u64(data, 8), be_u64(data, 16), data.len())
    else {
        return Err(HeaderError::BitmapsLength);
    };
    if !context.has_bitmaps_bit {
        return Ok(None);
    }
    if reserved != 0 {
        return Err(HeaderError::BitmapsReserved);
    }
    if count > MAX_BITMAPS {
        return Err(HeaderError::TooManyBitmaps { count });
    }
    if count == 0 {
        return Err(HeaderError::ZeroBitmaps);
    }
    if !directory_offset.is_multiple_of(context.cluster_size_bytes) {
        return Err(HeaderError::BitmapDirectoryOffset);
    }
    if directory_size_bytes > MAX_BITMAP_DIRECTORY_BYTES {
        return Err(HeaderError::BitmapDirectoryTooLarge { size_bytes: directory_size_bytes });
    }
    Ok(Some(BitmapsPointer { count, directory_size_bytes, directory_offset }))
}
