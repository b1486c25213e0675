//! Unpacks compressed clusters: one of them, or parts of many to a device.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::extent::{Codec, CompressedSource};
use structured_zstd::decoding::{FrameDecoder, find_frame_compressed_size, read_frame_header_info};
use twox_hash::XxHash64;
use zlib_rs::{InflateConfig, ReturnCode, decompress_slice};

use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage, UnpackSegment};

/// The largest window that a zstd frame may ask for: the usual decoder's limit.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// A deflate stream by itself; what it repeats may lie anywhere in front of it.
const DEFLATE: InflateConfig = InflateConfig { window_bits: -15 };
/// One with header and checksum (RFC 1950).
const ZLIB: InflateConfig = InflateConfig { window_bits: 15 };

/// How many packed bytes are enough for a first look: the codes of a block, and some symbols.
const PEEKED_PACKED_BYTES: u64 = 1024;
/// How many bytes are unpacked for it.
const PEEKED_BYTES: usize = 512;

/// How many packed bytes are read with one request, at least one cluster's.
const READ_BYTES: u64 = 1 << 20;
/// Of how many clusters.
const READ_CLUSTERS: usize = 64;

/// Reads and unpacks a compressed cluster; where fewer bytes were packed than it has, the rest is missing.
///
/// # Errors
/// If the device refuses, or the bytes are not what the codec packs.
pub fn cluster(storage: &mut dyn Storage, source: &CompressedSource) -> Result<Vec<u8>> {
    let packed = read_vec(storage, source.layer, DeviceId(source.device), source.host_offset, source.length_bytes)?;
    opened(&mut Unpacker::default(), source, &packed)
}

/// The part of an unpacked cluster that begins where `source` says.
///
/// # Errors
/// If the cluster ends before it does.
pub fn part<'c>(source: &CompressedSource, unpacked: &'c [u8], length_bytes: u64) -> Result<&'c [u8]> {
    let start = to_index(source.offset_in_cluster);
    unpacked.get(start..start + to_index(length_bytes)).ok_or_else(|| broken(source))
}

/// Unpacks parts of compressed clusters to a device of `layer`. Parts of the same cluster that follow each other take one
/// unpacking.
///
/// # Errors
/// As [`cluster`].
pub fn segments(storage: &mut dyn Storage, layer: u32, target: DeviceId, mut segments: &[UnpackSegment]) -> Result<()> {
    let mut unpacker = Unpacker::default();
    let mut unpacked: Option<(CompressedSource, Vec<u8>)> = None;
    while let Some(first) = segments.first() {
        let mut sum = 0;
        let fits = |segment: &&UnpackSegment| {
            sum += segment.source.length_bytes;
            segment.source.device == first.source.device && sum <= READ_BYTES.max(first.source.length_bytes)
        };
        let (now, later) = segments.split_at(segments.iter().take(READ_CLUSTERS).take_while(fits).count());
        let mut packed: Vec<Vec<u8>> =
            now.iter().map(|segment| vec![0; to_index(segment.source.length_bytes)]).collect();
        let mut ranges: Vec<_> =
            now.iter().zip(&mut packed).map(|(part, bytes)| (part.source.host_offset, &mut bytes[..])).collect();
        let failed = |error| Failure::storage(first.source.layer, error);
        storage.read_many(DeviceId(first.source.device), &mut ranges).map_err(failed)?;
        for (segment, packed) in now.iter().zip(&packed) {
            let source = CompressedSource { offset_in_cluster: 0, ..segment.source };
            let bytes = match unpacked.take() {
                Some((known, bytes)) if known == source => bytes,
                _ => opened(&mut unpacker, &source, packed)?,
            };
            let part = part(&segment.source, &bytes, segment.length_bytes)?;
            let written = storage.write(target, segment.target_offset, part);
            written.map_err(|error| Failure::storage(layer, error))?;
            unpacked = Some((source, bytes));
        }
        segments = later;
    }
    Ok(())
}

fn opened(unpacker: &mut Unpacker, source: &CompressedSource, packed: &[u8]) -> Result<Vec<u8>> {
    let size = usize::try_from(source.cluster_size_bytes).map_err(|_| broken(source))?;
    let mut bytes = vec![0; size];
    let length = unpacker.open(source.codec, packed, &mut bytes).ok_or_else(|| broken(source))?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Unpacks clusters; what it needs for that it makes once.
#[derive(Default)]
pub struct Unpacker {
    zstd: FrameDecoder,
}

impl Unpacker {
    /// Unpacks a cluster into `bytes`, which are as many as the cluster has; tells how many of them were packed, if that was
    /// possible. Only of [`Codec::Zlib`] it may be fewer than all.
    #[must_use]
    pub fn open(&mut self, codec: Codec, packed: &[u8], bytes: &mut [u8]) -> Option<usize> {
        let size = bytes.len();
        match codec {
            Codec::Deflate => inflate(packed, bytes).map(|()| size),
            Codec::Zlib => inflate_zlib(packed, bytes),
            Codec::Zstd => unpack_zstd(&mut self.zstd, packed, bytes).map(|()| size),
        }
    }
}

/// Whether the first bytes of a cluster are enough to see that it is not all zeros; `false` tells nothing. Deflate alone begins with what
/// stands first, so that a few bytes of it can be unpacked.
///
/// # Errors
/// If the device refuses.
pub(crate) fn shows_data(storage: &mut dyn Storage, source: &CompressedSource) -> Result<bool> {
    let config = match source.codec {
        Codec::Deflate => DEFLATE,
        Codec::Zlib => ZLIB,
        Codec::Zstd => return Ok(false),
    };
    let length = source.length_bytes.min(PEEKED_PACKED_BYTES);
    let packed = read_vec(storage, source.layer, DeviceId(source.device), source.host_offset, length)?;
    let mut bytes = [0; PEEKED_BYTES];
    let (first, _) = decompress_slice(&mut bytes, &packed, config);
    Ok(first.iter().any(|byte| *byte != 0))
}

fn broken(source: &CompressedSource) -> Failure {
    Failure::new(
        error_kind::CORRUPT,
        source.layer,
        format_args!("the compressed cluster at byte {:#x} cannot be unpacked", source.host_offset),
    )
}

/// The packed length is only known to the sector, so bytes behind the end of the stream are fine; a full buffer is the end.
fn inflate(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    let length = bytes.len();
    let (produced, code) = decompress_slice(bytes, packed, DEFLATE);
    // The code for "more room is needed" is also the one for "more input is needed".
    (produced.len() == length && matches!(code, ReturnCode::Ok | ReturnCode::BufError)).then_some(())
}

/// A whole stream, whose checksum is right; it may be shorter than the cluster, as the last one of a disk is.
fn inflate_zlib(packed: &[u8], bytes: &mut [u8]) -> Option<usize> {
    let (produced, code) = decompress_slice(bytes, packed, ZLIB);
    (code == ReturnCode::Ok && !produced.is_empty()).then_some(produced.len())
}

/// Frames one behind the other, as many as fill the cluster; what follows is not looked at. The last one must end where the cluster
/// does. They go straight to their place, and need no memory for their windows.
fn unpack_zstd(decoder: &mut FrameDecoder, mut packed: &[u8], mut bytes: &mut [u8]) -> Option<()> {
    while !bytes.is_empty() {
        let (frame, rest) = packed.split_at_checked(find_frame_compressed_size(packed).ok()?)?;
        let count = decoder.decode_all(frame, bytes).ok()?;
        let (unpacked, later) = bytes.split_at_mut_checked(count)?;
        // A frame to be skipped has no header to be read.
        if let Ok(header) = read_frame_header_info(frame, false) {
            let has_right_sum = !header.content_checksum || frame.ends_with(&zstd_checksum(unpacked));
            if header.window_size > MAX_WINDOW_BYTES || !has_right_sum {
                return None;
            }
        }
        (packed, bytes) = (rest, later);
    }
    Some(())
}

/// The last bytes of a frame that has a checksum (RFC 8878, section 3.1.1).
fn zstd_checksum(unpacked: &[u8]) -> [u8; 4] {
    let [first, second, third, fourth, ..] = XxHash64::oneshot(0, unpacked).to_le_bytes();
    [first, second, third, fourth]
}

#[cfg(test)]
mod tests;
