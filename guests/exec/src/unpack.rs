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

/// Reads and unpacks a compressed cluster; what the packed bytes leave open at its end is zero.
///
/// # Errors
/// If the device refuses, or the bytes are not what the codec packs.
pub fn cluster(storage: &mut dyn Storage, source: &CompressedSource) -> Result<Vec<u8>> {
    let packed = read_vec(storage, source.layer, DeviceId(source.device), source.host_offset, source.length_bytes)?;
    opened(&mut Unpacker::default(), source, &packed)
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

fn opened(unpacker: &mut Unpacker, source: &CompressedSource, packed: &[u8]) -> Result<Vec<u8>> {
    let size = usize::try_from(source.cluster_size_bytes).map_err(|_| broken(source))?;
    let mut bytes = vec![0; size];
    if unpacker.open(source.codec, packed, &mut bytes) { Ok(bytes) } else { Err(broken(source)) }
}

/// Unpacks clusters; what it needs for that it makes once.
#[derive(Default)]
pub struct Unpacker {
    zstd: FrameDecoder,
}

impl Unpacker {
    /// Unpacks a cluster into `bytes`, all of them, as long as the cluster is; tells whether that was possible.
    #[must_use]
    pub fn open(&mut self, codec: Codec, packed: &[u8], bytes: &mut [u8]) -> bool {
        let unpacked = match codec {
            Codec::Deflate => inflate(packed, bytes),
            Codec::Zlib => inflate_zlib(packed, bytes),
            Codec::Zstd => unpack_zstd(&mut self.zstd, packed, bytes),
        };
        unpacked.is_some()
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

/// A whole stream, whose checksum is right; it may be shorter than the cluster, the rest of which is zeros.
fn inflate_zlib(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (produced, code) = decompress_slice(bytes, packed, ZLIB);
    let length = produced.len();
    bytes[length..].fill(0);
    (code == ReturnCode::Ok && length > 0).then_some(())
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryStorage;

    fn open(codec: Codec, packed: &[u8], bytes: &mut [u8]) -> bool {
        Unpacker::default().open(codec, packed, bytes)
    }

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

    /// The header of a frame that does not tell its length, with a window of 2 to the power of `10 + exponent` bytes.
    fn header(exponent: u8) -> Vec<u8> {
        vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, exponent << 3]
    }

    /// A block of equal bytes.
    fn sevens(count: u32, is_last: bool) -> Vec<u8> {
        let mut block = (count << 3 | 1 << 1 | u32::from(is_last)).to_le_bytes()[..3].to_vec();
        block.push(7);
        block
    }

    /// Each as qemu-img 10.0.2 takes it.
    #[test]
    fn frames_fill_a_cluster_together_and_end_with_it() {
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        let nothing = [&header(0)[..], &[1, 0, 0]].concat();
        let frame = |count| [header(0), sevens(count, true)].concat();
        for (name, packed, is_sound) in [
            ("one", frame(100), true),
            ("one of two blocks", [header(0), sevens(60, false), sevens(40, true)].concat(), true),
            ("two", [frame(60), frame(40)].concat(), true),
            ("skipped and empty ones in front", [&skipped[..], &nothing, &frame(100)].concat(), true),
            ("anything behind", [&frame(100)[..], &[9; 50]].concat(), true),
            ("a shorter one", frame(99), false),
            ("a longer one", frame(101), false),
            ("two that are longer", [frame(60), frame(41)].concat(), false),
            ("no end", [header(0), sevens(100, false)].concat(), false),
            ("an end behind the cluster's", [header(0), sevens(100, false), sevens(1, true)].concat(), false),
            ("a block that is no block", [&header(0)[..], &sevens(100, false), &[7, 0, 0]].concat(), false),
            ("a block of more than the window", [header(0), sevens(1025, true)].concat(), false),
            ("a dictionary", [&[0x28, 0xb5, 0x2f, 0xfd, 0x01, 0, 5][..], &sevens(100, true)].concat(), false),
            ("the right length", [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 100][..], &sevens(100, true)].concat(), true),
            ("a wrong length", [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 99][..], &sevens(100, true)].concat(), false),
            ("nothing", vec![], false),
        ] {
            let mut bytes = [0; 100];
            assert_eq!(open(Codec::Zstd, &packed, &mut bytes), is_sound, "{name}");
            assert!(!is_sound || bytes == [7; 100], "{name}");
        }
    }

    #[test]
    fn a_checksum_must_be_right_where_there_is_one() {
        /// The lower half of XXH64 of a hundred sevens, by another program.
        const SUM_OF_SEVENS: u32 = 0xdd9b_8345;
        let with_sum = |sum: u32| {
            let header = [0x28, 0xb5, 0x2f, 0xfd, 0x04, 0];
            [&header[..], &sevens(100, true), &sum.to_le_bytes()].concat()
        };
        let mut bytes = [0; 100];
        assert!(open(Codec::Zstd, &with_sum(SUM_OF_SEVENS), &mut bytes));
        assert_eq!(bytes, [7; 100]);
        assert!(!open(Codec::Zstd, &with_sum(SUM_OF_SEVENS ^ 1), &mut bytes));
        assert!(!open(Codec::Zstd, &with_sum(SUM_OF_SEVENS)[..13], &mut bytes), "a byte of it is missing");
    }

    #[test]
    fn a_window_is_as_large_as_the_usual_decoder_takes_it() {
        let mut bytes = [0; 10];
        for (exponent, is_taken) in [(0, true), (16, true), (17, true), (18, false), (21, false)] {
            let packed = [header(exponent), sevens(10, true)].concat();
            assert_eq!(open(Codec::Zstd, &packed, &mut bytes), is_taken, "{exponent}");
        }
        // An eighth more than 128 MiB.
        let mut packed = [header(17), sevens(10, true)].concat();
        packed[5] += 1;
        assert!(!open(Codec::Zstd, &packed, &mut bytes));
    }
}
