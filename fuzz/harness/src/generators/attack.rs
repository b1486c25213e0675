//! Images that do one evil thing each: a sound one with a table bent.

use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};

use crate::support::{self, QCOW2, Shape, empty_image};

const CLUSTER_BYTES: usize = 512;
/// Where the tables of the sound image lie.
const REFCOUNT_TABLE: usize = CLUSTER_BYTES;
const L1_TABLE: usize = 3 * CLUSTER_BYTES;
/// In L1 and L2 entries: the refcount is exactly one.
const COPIED: u64 = 1 << 63;
/// In L2 entries: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;

/// An image, and nothing else to be said of it.
#[derive(Clone, Debug)]
pub struct Attack {
    /// The file.
    pub image: Vec<u8>,
}

/// A sound overlay with some data.
#[must_use]
pub fn overlay() -> Vec<u8> {
    sound(true)
}

fn sound(has_backing: bool) -> Vec<u8> {
    let shape = Shape {
        version: 3,
        cluster_bits: 9,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 128 << 10,
        has_backing,
    };
    let mut storage = MemoryStorage { devices: vec![empty_image(&shape), vec![0x77; 128 << 10]] };
    let piece = |guest_offset, length_bytes| Extent {
        guest_offset,
        length_bytes,
        source: Source::Data { device: 1, host_offset: 0 },
    };
    support::write(&mut storage, &[QCOW2], 0, &[piece(0, 3000), piece(40_000, 3000)]);
    storage.devices.remove(0)
}

fn bent(bend: impl FnOnce(&mut Vec<u8>)) -> Attack {
    let mut image = sound(false);
    bend(&mut image);
    Attack { image }
}

fn word(image: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(image[offset..offset + 8].try_into().expect("eight bytes"))
}

fn set(image: &mut [u8], offset: usize, value: u64) {
    image[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
}

/// The first L2 table of a sound image.
fn l2_table(image: &[u8]) -> usize {
    usize::try_from(word(image, L1_TABLE) & !COPIED).expect("small")
}

/// An L1 entry leads to the L1 table.
#[must_use]
pub fn l2_is_l1() -> Attack {
    bent(|image| set(image, L1_TABLE, L1_TABLE as u64 | COPIED))
}

/// An L2 entry leads to its own table.
#[must_use]
pub fn l2_maps_itself() -> Attack {
    bent(|image| {
        let table = l2_table(image);
        set(image, table, table as u64 | COPIED);
    })
}

/// Two L1 entries lead to one L2 table whose refcount is one.
#[must_use]
pub fn shared_l2() -> Attack {
    bent(|image| {
        let first = word(image, L1_TABLE);
        set(image, L1_TABLE + 8, first);
    })
}

/// The refcount table leads to itself.
#[must_use]
pub fn refcount_block_is_its_table() -> Attack {
    bent(|image| set(image, REFCOUNT_TABLE, REFCOUNT_TABLE as u64))
}

/// Every entry of the refcount table leads to the first block.
#[must_use]
pub fn one_block_for_all() -> Attack {
    bent(|image| {
        let block = word(image, REFCOUNT_TABLE);
        (0..CLUSTER_BYTES / 8).for_each(|index| set(image, REFCOUNT_TABLE + index * 8, block));
    })
}

/// A guest cluster lies in the refcount table, which writing the cluster would overwrite.
#[must_use]
pub fn data_is_the_refcount_table() -> Attack {
    bent(|image| {
        let table = l2_table(image);
        set(image, table, REFCOUNT_TABLE as u64 | COPIED);
    })
}

/// A compressed cluster whose stream goes on for ever.
#[must_use]
pub fn deflate_bomb() -> Attack {
    // Blocks of fixed Huffman codes (RFC 1951, section 3.2.6): a literal, then matches of 258 bytes at distance 1.
    let mut bits = BitWriter::default();
    bits.push(0b011, 3);
    bits.push(0b0000_1100, 8);
    for _ in 0..1800 {
        bits.push(0b1010_0011, 8);
        bits.push(0, 5);
    }
    compressed(&bits.bytes, 0)
}

/// As [`deflate_bomb`], for Zstandard: one block that repeats a byte for as long as a block can be, and a window to match.
#[must_use]
pub fn zstd_bomb() -> Attack {
    // RFC 8878, section 3.1.1: magic; frame header without content size, window descriptor of the largest window; RLE blocks.
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff];
    for _ in 0..500 {
        let header: u32 = (0x001f_ffff << 3) | (1 << 1);
        bytes.extend_from_slice(&header.to_le_bytes()[..3]);
        bytes.push(0x55);
    }
    compressed(&bytes, 1)
}

fn compressed(packed: &[u8], compression_type: u8) -> Attack {
    bent(|image| {
        let table = l2_table(image);
        let host_offset = image.len() as u64;
        image.extend_from_slice(packed);
        image.resize(image.len().next_multiple_of(CLUSTER_BYTES), 0);
        // Cluster of 512 bytes: one bit for additional sectors.
        set(image, table, COMPRESSED | 1 << 61 | host_offset);
        image[104] = compression_type;
        image[79] |= compression_type << 3;
    })
}

/// A virtual size that leaves no room for arithmetic, with an L1 table that claims to fit.
#[must_use]
pub fn endless_disk() -> Attack {
    bent(|image| {
        set(image, 24, (1 << 63) - 512);
        image[36..40].copy_from_slice(&0x0040_0000u32.to_be_bytes());
    })
}

/// Bits from the least significant one on, as deflate has them; Huffman codes are given reversed.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn push(&mut self, bits: u32, count: u32) {
        for index in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("pushed before");
            *last |= ((bits >> index & 1).to_le_bytes()[0]) << (self.used % 8);
            self.used += 1;
        }
    }
}
