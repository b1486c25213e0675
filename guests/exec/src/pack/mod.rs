//! Packs clusters: raw deflate with a window of 4096 bytes, as readers of qcow2 expect it, and zstd frames.

mod block;
mod deflate;
mod huffman;
mod matches;

use alloc::vec::Vec;

use instar_plan::extent::Codec;
use miniz_oxide::deflate::compress_to_vec_zlib;
use structured_zstd::encoding::{CompressionLevel, compress_slice_to_vec};

use deflate::Deflater;

/// How many of a cluster's first bytes tell whether it may be noise.
const NOISE_BYTES: usize = 16 << 10;

/// How hard to pack with [`Codec::Zlib`]: what zlib's default is called there.
const ZLIB_LEVEL: u8 = 6;

/// Packs clusters; keeps its buffers from one cluster to the next.
#[derive(Default)]
pub struct Packer {
    deflater: Deflater,
    packed: Vec<u8>,
}

impl Packer {
    /// The packed form of a cluster; `None` where it is not shorter than the cluster.
    pub fn pack(&mut self, codec: Codec, cluster: &[u8]) -> Option<&[u8]> {
        self.packed.clear();
        match codec {
            Codec::Deflate => self.deflater.deflate(cluster, &mut self.packed),
            Codec::Zlib => self.packed = compress_to_vec_zlib(cluster, ZLIB_LEVEL),
            Codec::Zstd => {
                if self.is_noise(cluster) {
                    return None;
                }
                self.packed = compress_slice_to_vec(cluster, CompressionLevel::Default);
            }
        }
        (self.packed.len() < cluster.len()).then_some(&self.packed[..])
    }

    /// Whether the faster one of the two packers finds nothing to be gained.
    fn is_noise(&mut self, cluster: &[u8]) -> bool {
        let mut counts = [0; 256];
        cluster[..cluster.len().min(NOISE_BYTES)].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        if !block::is_noise(&counts, cluster.len().min(NOISE_BYTES)) {
            return false;
        }
        self.deflater.deflate(cluster, &mut self.packed);
        let is_noise = self.packed.len() >= cluster.len();
        self.packed.clear();
        is_noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

    /// Numbers that look random and are the same every time.
    fn noise(seed: u64) -> impl Iterator<Item = u8> {
        let mut state = seed;
        core::iter::from_fn(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((state >> 56) as u8)
        })
    }

    fn samples() -> Vec<Vec<u8>> {
        let mut samples = vec![vec![0; 512], vec![7; 65536], (0..=255u8).cycle().take(4096).collect(), vec![b'a'; 1]];
        let text: Vec<u8> = noise(1)
            .flat_map(|byte| [b"alpha ", b"beta  ", b"gamma "][usize::from(byte) % 3].to_owned())
            .take(65536)
            .collect();
        samples.push(text);
        samples.push(noise(2).map(|byte| byte & 3).take(131_072).collect());
        // Repeats at distances beyond the window, just inside of it, and just outside.
        for distance in [4095, 4096, 4097, 20_000] {
            samples.push(noise(3).take(distance).collect::<Vec<u8>>().into_iter().cycle().take(65536).collect());
        }
        // Few symbols with very different frequencies: codes of the greatest length.
        let mut skewed = Vec::new();
        for symbol in 0..24u8 {
            skewed.extend(core::iter::repeat_n(symbol, 1 << (symbol / 2)));
        }
        skewed.extend(noise(4).map(|byte| byte % 24).take(200));
        samples.push(skewed);
        samples
    }

    /// Unpacks with a window of no more than 4096 bytes, as the strictest reader does.
    fn inflate_in_small_window(packed: &[u8], length: usize) -> Vec<u8> {
        let (mut state, mut window, mut bytes) = (DecompressorOxide::new(), vec![0; 4096], Vec::new());
        let (mut taken, mut position) = (0, 0);
        while bytes.len() < length {
            let (_, consumed, produced) = decompress(
                &mut state,
                &packed[taken..],
                &mut window,
                position,
                inflate_flags::TINFL_FLAG_HAS_MORE_INPUT,
            );
            assert!(consumed + produced > 0, "the stream is stuck");
            bytes.extend_from_slice(&window[position..position + produced]);
            taken += consumed;
            position = (position + produced) % 4096;
        }
        bytes
    }

    #[test]
    fn what_is_deflated_unpacks_in_a_window_of_4096_bytes() {
        let mut packer = Packer::default();
        for sample in samples() {
            let Some(packed) = packer.pack(Codec::Deflate, &sample) else { continue };
            assert!(inflate_in_small_window(packed, sample.len()) == sample, "{} bytes", sample.len());
        }
    }

    #[test]
    fn what_repeats_gets_short_and_noise_is_left_alone() {
        for codec in [Codec::Deflate, Codec::Zlib, Codec::Zstd] {
            let mut packer = Packer::default();
            assert!(packer.pack(codec, &vec![0x5a; 65536]).unwrap().len() < 200);
            assert!(
                packer.pack(codec, &noise(5).map(|byte| byte & 15).take(65536).collect::<Vec<_>>()).unwrap().len()
                    < 40_000
            );
            assert!(packer.pack(codec, &noise(6).take(65536).collect::<Vec<_>>()).is_none());
        }
    }

    #[test]
    fn zstd_frames_unpack() {
        let mut packer = Packer::default();
        for sample in samples() {
            let Some(packed) = packer.pack(Codec::Zstd, &sample) else { continue };
            let mut bytes = vec![0; sample.len()];
            assert_eq!(zstd_safe::decompress(&mut bytes[..], packed), Ok(sample.len()));
            assert!(bytes == sample, "{} bytes", sample.len());
        }
    }
}
