//! Unpacks compressed clusters: one of them, or parts of many to a device.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::extent::{Codec, CompressedSource};
use zlib_rs::{InflateConfig, ReturnCode, decompress_slice};

use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage, UnpackSegment};

/// The largest window that a zstd frame may ask for: memory is taken for all of it at once. No cluster is longer than 2 MiB, and at its
/// highest ordinary level the usual packer asks for 8 MiB where it does not know that.
const MAX_WINDOW_BYTES: u64 = 32 << 20;

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

/// Reads and unpacks a compressed cluster; what the packed bytes leave open at its end is zero.
///
/// # Errors
/// If the device refuses, or the bytes are not what the codec packs.
pub fn cluster(storage: &mut dyn Storage, source: &CompressedSource) -> Result<Vec<u8>> {
    let packed = read_vec(storage, source.layer, DeviceId(source.device), source.host_offset, source.length_bytes)?;
    opened(source, &packed)
}

/// Unpacks parts of compressed clusters to a device of `layer`. Parts of the same cluster that follow each other take one
/// unpacking.
///
/// # Errors
/// As [`cluster`].
pub fn segments(storage: &mut dyn Storage, layer: u32, target: DeviceId, mut segments: &[UnpackSegment]) -> Result<()> {
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
                _ => opened(&source, packed)?,
            };
            let start = to_index(segment.source.offset_in_cluster);
            let part = &bytes[start..start + to_index(segment.length_bytes)];
            let written = storage.write(target, segment.target_offset, part);
            written.map_err(|error| Failure::storage(layer, error))?;
            unpacked = Some((source, bytes));
        }
        segments = later;
    }
    Ok(())
}

fn opened(source: &CompressedSource, packed: &[u8]) -> Result<Vec<u8>> {
    let size = usize::try_from(source.cluster_size_bytes).map_err(|_| broken(source))?;
    let mut bytes = vec![0; size];
    if open(source.codec, packed, &mut bytes) { Ok(bytes) } else { Err(broken(source)) }
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

/// A whole stream, whose checksum is right; it may be shorter than the cluster.
fn inflate_zlib(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (produced, code) = decompress_slice(bytes, packed, ZLIB);
    (code == ReturnCode::Ok && !produced.is_empty()).then_some(())
}

/// A frame that fills the cluster; what follows is not looked at.
fn unpack_zstd(mut packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use structured_zstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    use structured_zstd::io::Read;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW_BYTES).ok()?;
    decoder.reset(&mut packed).ok()?;
    let mut filled = 0;
    while filled < bytes.len() {
        let is_over = decoder.decode_blocks(&mut packed, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
        let count = decoder.read(&mut bytes[filled..]).ok()?;
        filled += count;
        if is_over && count == 0 {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryStorage;

    /// What another decoder makes of a frame, if it fills `length` bytes.
    fn by_another(packed: &[u8], length: usize) -> Option<Vec<u8>> {
        use ruzstd::io::Read;
        let mut bytes = vec![0; length];
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
        decoder.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    #[test]
    fn a_first_look_sees_data_and_takes_nothing_for_data_that_is_not() {
        let zeros = vec![0; 65536];
        let mut late = zeros.clone();
        late[60_000] = 1;
        let text: Vec<u8> = (0..65536u32).flat_map(|number| number.to_le_bytes()).take(65536).collect();
        for (codec, pack) in [
            (Codec::Deflate, miniz_oxide::deflate::compress_to_vec as fn(&[u8], u8) -> Vec<u8>),
            (Codec::Zlib, miniz_oxide::deflate::compress_to_vec_zlib),
        ] {
            for (bytes, expected) in [(&zeros, false), (&late, false), (&text, true)] {
                let packed = pack(bytes, 6);
                let source = CompressedSource {
                    device: 0,
                    layer: 0,
                    host_offset: 3,
                    length_bytes: packed.len() as u64 + 100,
                    cluster_size_bytes: 65536,
                    codec,
                    offset_in_cluster: 0,
                };
                let mut storage = MemoryStorage { devices: vec![[&[9; 3][..], &packed].concat()] };
                assert_eq!(shows_data(&mut storage, &source), Ok(expected), "{codec:?}");
                let nothing_there = CompressedSource { host_offset: 1 << 40, ..source };
                assert_eq!(shows_data(&mut storage, &nothing_there), Ok(false));
                let other = CompressedSource { codec: Codec::Zstd, ..source };
                assert_eq!(shows_data(&mut storage, &other), Ok(false));
            }
        }
    }

    /// Bytes that can be packed well or badly.
    fn plain() -> impl Strategy<Value = Vec<u8>> {
        let words = proptest::collection::vec((any::<u8>(), 1usize..300, 0u8..9), 1..400);
        words.prop_map(|words| {
            let spread = |(first, count, step): (u8, usize, u8)| {
                (0..=250).cycle().take(count).map(move |place: u8| first.wrapping_add(step.wrapping_mul(place)))
            };
            words.into_iter().flat_map(spread).collect()
        })
    }

    fn zstd_frame() -> impl Strategy<Value = (Vec<u8>, usize)> {
        (plain(), 0u8..3).prop_map(|(plain, packer)| {
            use structured_zstd::encoding::{CompressionLevel, compress_slice_to_vec};
            let packed = match packer {
                0 => ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest),
                1 => compress_slice_to_vec(&plain, CompressionLevel::Fastest),
                _ => compress_slice_to_vec(&plain, CompressionLevel::Default),
            };
            (packed, plain.len())
        })
    }

    /// What another decoder makes of a deflate stream, and whether that fills `length` bytes.
    fn inflated_by_another(packed: &[u8], length: usize, has_header: bool) -> (Vec<u8>, bool) {
        use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
        let mut bytes = vec![0; length];
        let header = if has_header { inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER } else { 0 };
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | header;
        let (status, _, produced) = decompress(&mut DecompressorOxide::new(), packed, &mut bytes, 0, flags);
        (bytes, produced == length && status == miniz_oxide::inflate::TINFLStatus::Done)
    }

    proptest! {
        #[test]
        fn deflate_streams_mean_what_they_mean_to_another_decoder(
            plain in plain(), level in 0u8..10, has_header in any::<bool>(), tail in 0usize..600, shorter in 0usize..3,
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3),
        ) {
            use miniz_oxide::deflate::{compress_to_vec, compress_to_vec_zlib};
            let mut packed = if has_header { compress_to_vec_zlib(&plain, level) } else { compress_to_vec(&plain, level) };
            let is_sound = flips.is_empty();
            for (place, bits) in flips {
                let place = place % packed.len();
                packed[place] ^= bits;
            }
            packed.resize(packed.len() + tail, 0);
            let mut bytes = vec![0; plain.len().saturating_sub(shorter)];
            let is_open = open(if has_header { Codec::Zlib } else { Codec::Deflate }, &packed, &mut bytes);
            let (others, others_is_open) = inflated_by_another(&packed, bytes.len(), has_header);
            prop_assert!(is_open || !others_is_open);
            prop_assert!(!others_is_open || bytes == others);
            if is_sound && (shorter == 0 || !has_header) && !bytes.is_empty() {
                prop_assert!(is_open && bytes == plain[..bytes.len()]);
            }
        }

        #[test]
        fn zstd_frames_mean_what_they_mean_to_another_decoder(
            (mut packed, length) in zstd_frame(), tail in 0usize..600, flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3),
        ) {
            let is_sound = flips.is_empty();
            for (place, bits) in flips {
                let place = place % packed.len();
                packed[place] ^= bits;
            }
            packed.resize(packed.len() + tail, 0);
            let mut bytes = vec![0; length];
            let is_open = open(Codec::Zstd, &packed, &mut bytes);
            let others = by_another(&packed, length);
            prop_assert!(is_open || !is_sound);
            if is_open && let Some(others) = others {
                prop_assert!(bytes == others);
            }
        }
    }

    #[test]
    fn a_window_for_which_there_is_no_memory_is_refused() {
        // A frame of no known length, with a window of 2 GiB, and a block of ten equal bytes.
        let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x53, 0x00, 0x00, 0x07];
        assert!(!open(Codec::Zstd, &packed, &mut [0; 10]));
        packed[5] = 0;
        let mut bytes = [0; 10];
        assert!(open(Codec::Zstd, &packed, &mut bytes));
        assert_eq!(bytes, [7; 10]);
        assert!(!open(Codec::Zstd, &packed, &mut [0; 11]), "one byte is missing");
    }
}
