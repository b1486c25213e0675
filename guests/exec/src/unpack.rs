//! Unpacks compressed clusters: one of them, or parts of many to a device.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::extent::{Codec, CompressedSource};

use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage, UnpackSegment};

/// How many packed bytes are read with one request, at least one cluster's.
const READ_BYTES: u64 = 1 << 20;
/// Of how many clusters.
const READ_CLUSTERS: usize = 64;

/// Reads and unpacks a compressed cluster; what the packed bytes leave open at its end is zero.
///
/// # Errors
/// If the device refuses, or the bytes are not what the codec packs.
pub fn cluster(storage: &mut dyn Storage, layer: u32, source: &CompressedSource) -> Result<Vec<u8>> {
    let packed = read_vec(storage, layer, DeviceId(source.device), source.host_offset, source.length_bytes)?;
    opened(layer, source, &packed)
}

/// Unpacks parts of compressed clusters to a device. Parts of the same cluster that follow each other take one unpacking.
///
/// # Errors
/// As [`cluster`].
pub fn segments(storage: &mut dyn Storage, layer: u32, target: DeviceId, mut segments: &[UnpackSegment]) -> Result<()> {
    let failed = |error| Failure::storage(layer, error);
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
        storage.read_many(DeviceId(first.source.device), &mut ranges).map_err(failed)?;
        for (segment, packed) in now.iter().zip(&packed) {
            let source = CompressedSource { offset_in_cluster: 0, ..segment.source };
            let bytes = match unpacked.take() {
                Some((known, bytes)) if known == source => bytes,
                _ => opened(layer, &source, packed)?,
            };
            let start = to_index(segment.source.offset_in_cluster);
            let part = &bytes[start..start + to_index(segment.length_bytes)];
            storage.write(target, segment.target_offset, part).map_err(failed)?;
            unpacked = Some((source, bytes));
        }
        segments = later;
    }
    Ok(())
}

fn opened(layer: u32, source: &CompressedSource, packed: &[u8]) -> Result<Vec<u8>> {
    let size = usize::try_from(source.cluster_size_bytes).map_err(|_| broken(layer, source))?;
    let mut bytes = vec![0; size];
    if open(source.codec, packed, &mut bytes) { Ok(bytes) } else { Err(broken(layer, source)) }
}

/// Unpacks a cluster into `bytes`, which are zeros, as long as the cluster is; tells whether that was possible.
#[must_use]
pub fn open(codec: Codec, packed: &[u8], bytes: &mut [u8]) -> bool {
    let unpacked = match codec {
        Codec::Deflate => inflate(packed, bytes),
        Codec::Zlib => inflate_zlib(packed, bytes),
        Codec::Zstd => unpack_zstd(packed, bytes),
    };
    unpacked.is_some()
}

fn broken(layer: u32, source: &CompressedSource) -> Failure {
    Failure::new(
        error_kind::CORRUPT,
        layer,
        format_args!("the compressed cluster at byte {:#x} cannot be unpacked", source.host_offset),
    )
}

/// The packed length is only known to the sector, so bytes behind the end of the stream are fine; a full buffer is the end.
fn inflate(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut state = DecompressorOxide::new();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, produced) = decompress(&mut state, packed, bytes, 0, flags);
    let full = produced == bytes.len() && matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    full.then_some(())
}

/// A whole stream, whose checksum is right; it may be shorter than the cluster.
fn inflate_zlib(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut state = DecompressorOxide::new();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER;
    let (status, _, produced) = decompress(&mut state, packed, bytes, 0, flags);
    (status == TINFLStatus::Done && produced > 0).then_some(())
}

fn unpack_zstd(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::io::Read;
    let mut decoder = StreamingDecoder::new(packed).ok()?;
    let mut filled = 0;
    while filled < bytes.len() {
        match decoder.read(&mut bytes[filled..]).ok()? {
            0 => return None,
            count => filled += count,
        }
    }
    Some(())
}
