//! What comes out of packed clusters, against other packers and decoders.

use proptest::prelude::*;

use super::*;
use crate::memory::MemoryStorage;

/// Unpacks; whether that was possible. What the packed bytes leave open stays as it is.
fn open(codec: Codec, packed: &[u8], bytes: &mut [u8]) -> bool {
    Unpacker::default().open(codec, packed, bytes).is_some()
}

/// What the usual decoder makes of frames, if they fill `length` bytes and end with them.
fn by_another(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    use zstd_safe::{DCtx, InBuffer, OutBuffer};
    let mut bytes = vec![0; length];
    let (mut input, mut output) = (InBuffer::around(packed), OutBuffer::around(&mut bytes[..]));
    let mut decoder = DCtx::create();
    let mut expected = 0;
    while output.pos() < length {
        let before = (input.pos(), output.pos());
        expected = decoder.decompress_stream(&mut output, &mut input).ok()?;
        if before == (input.pos(), output.pos()) {
            return None;
        }
    }
    (expected == 0).then_some(bytes)
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

#[test]
fn what_a_short_stream_leaves_open_is_missing_and_not_zeros() {
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(&[7; 600], 6);
    let source = |offset_in_cluster| CompressedSource {
        device: 0,
        layer: 2,
        host_offset: 0,
        length_bytes: packed.len() as u64,
        cluster_size_bytes: 1024,
        codec: Codec::Zlib,
        offset_in_cluster,
    };
    let mut storage = MemoryStorage { devices: vec![packed.clone(), vec![]] };
    for (offset, length_bytes, is_there) in [(0, 600, true), (512, 88, true), (512, 89, false), (700, 1, false)] {
        let source = source(offset);
        let unpacked = cluster(&mut storage, &source).unwrap();
        assert_eq!(part(&source, &unpacked, length_bytes).is_ok(), is_there);
        let segment = UnpackSegment { source, target_offset: 10, length_bytes };
        let result = segments(&mut storage, 1, DeviceId(1), &[segment]);
        assert_eq!(result.as_ref().err().map(|failure| failure.layer), (!is_there).then_some(2), "{result:?}");
        let written = std::mem::take(&mut storage.devices[1]);
        assert_eq!(written.len() as u64, if is_there { 10 + length_bytes } else { 0 });
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

/// Bytes, packed by one of two packers, and how many they were.
fn zstd_frame() -> impl Strategy<Value = (Vec<u8>, usize)> {
    (plain(), 0u8..4, 1i32..20, any::<bool>()).prop_map(|(plain, packer, level, has_sum)| {
        use structured_zstd::encoding::{CompressionLevel, compress_slice_to_vec};
        let packed = match packer {
            0 => compress_slice_to_vec(&plain, CompressionLevel::Fastest),
            1 => compress_slice_to_vec(&plain, CompressionLevel::Default),
            _ => packed_by_another(&plain, level, has_sum),
        };
        (packed, plain.len())
    })
}

fn packed_by_another(plain: &[u8], level: i32, has_sum: bool) -> Vec<u8> {
    use zstd_safe::{CCtx, CParameter, compress_bound};
    let mut packer = CCtx::create();
    packer.set_parameter(CParameter::CompressionLevel(level)).expect("a level");
    packer.set_parameter(CParameter::ChecksumFlag(has_sum)).expect("a flag");
    let mut packed = vec![0; compress_bound(plain.len())];
    let length = packer.compress2(&mut packed[..], plain).expect("room");
    packed.truncate(length);
    packed
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
        frames in proptest::collection::vec(zstd_frame(), 1..3), tail in 0usize..600,
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let mut packed: Vec<u8> = frames.iter().flat_map(|frame| frame.0.clone()).collect();
        let length = frames.iter().map(|frame| frame.1).sum();
        let is_sound = flips.is_empty();
        for (place, bits) in flips {
            let place = place % packed.len();
            packed[place] ^= bits;
        }
        packed.resize(packed.len() + tail, 0);
        let mut bytes = vec![0; length];
        let is_open = open(Codec::Zstd, &packed, &mut bytes);
        prop_assert!(is_open || !is_sound);
        // The other one sees a bit more of what is broken: about one frame in half a million.
        if let Some(others) = by_another(&packed, length) {
            prop_assert!(is_open && bytes == others);
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
