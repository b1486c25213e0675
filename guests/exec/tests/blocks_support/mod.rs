//! Empty images of the formats that are made of tables and blocks, built byte by byte from the format descriptions.
#![allow(dead_code, reason = "each test program uses a part of this")]

use instar_abi::job::format;

/// An image to be built.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    /// One of [`format`].
    pub(crate) format: u32,
    /// Logarithm of the block's length, within what the format allows; vdi and vhdx have blocks of 1 MiB.
    pub(crate) block_bits: u32,
    /// Size of the disk, a multiple of 512.
    pub(crate) size_bytes: u64,
    /// Whether a backing name is recorded.
    pub(crate) has_backing: bool,
}

/// The formats of [`empty_blocks`].
pub(crate) const FORMATS: [u32; 5] = [format::QED, format::QCOW, format::VDI, format::VPC, format::VHDX];

/// Builds an image.
pub(crate) fn empty_blocks(blueprint: &Blueprint) -> Vec<u8> {
    match blueprint.format {
        format::QED => qed(blueprint),
        format::QCOW => qcow(blueprint),
        format::VDI => vdi(blueprint),
        format::VPC => vpc(blueprint),
        format::VHDX => vhdx(blueprint),
        other => panic!("no image of format {other} can be built"),
    }
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn qed(blueprint: &Blueprint) -> Vec<u8> {
    let cluster = 1_u32 << blueprint.block_bits.clamp(12, 16);
    let mut bytes = vec![0; 2 * cluster as usize];
    put(&mut bytes, 0, b"QED\0");
    for (offset, value) in [(4, cluster), (8, 1), (12, 1), (56, 64), (60, 4)] {
        put(&mut bytes, offset, &value.to_le_bytes());
    }
    put(&mut bytes, 16, &u64::from(blueprint.has_backing).to_le_bytes());
    put(&mut bytes, 40, &u64::from(cluster).to_le_bytes());
    put(&mut bytes, 48, &blueprint.size_bytes.to_le_bytes());
    put(&mut bytes, 64, b"base");
    bytes
}

fn qcow(blueprint: &Blueprint) -> Vec<u8> {
    let (cluster_bits, l2_bits) = (blueprint.block_bits.clamp(9, 16), 6);
    let l1_bytes = blueprint.size_bytes.div_ceil(1 << (cluster_bits + l2_bits)) * 8;
    let mut bytes = vec![0; 56 + l1_bytes as usize];
    put(&mut bytes, 0, b"QFI\xfb\0\0\0\x01");
    if blueprint.has_backing {
        put(&mut bytes, 8, &48_u64.to_be_bytes());
        put(&mut bytes, 16, &4_u32.to_be_bytes());
        put(&mut bytes, 48, b"base");
    }
    put(&mut bytes, 24, &blueprint.size_bytes.to_be_bytes());
    put(&mut bytes, 32, &[cluster_bits as u8, l2_bits as u8]);
    put(&mut bytes, 40, &56_u64.to_be_bytes());
    bytes
}

fn vdi(blueprint: &Blueprint) -> Vec<u8> {
    let blocks = blueprint.size_bytes.div_ceil(1 << 20) as u32;
    let mut bytes = vec![0; 1024];
    let fields = [
        (64, 0xbeda_107f_u32),
        (68, 0x1_0001),
        (76, 1),
        (340, 512),
        (344, 1024),
        (360, 512),
        (368, blueprint.size_bytes as u32),
        (376, 1 << 20),
        (384, blocks),
    ];
    for (offset, value) in fields {
        put(&mut bytes, offset, &value.to_le_bytes());
    }
    bytes[512..512 + 4 * blocks as usize].fill(0xff);
    bytes
}

/// The footer of a vpc image, which says where its header is: nowhere in one of fixed size.
fn vpc_footer(size_bytes: u64, kind: u32, header_offset: u64) -> Vec<u8> {
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 16, &header_offset.to_be_bytes());
    put(&mut footer, 28, b"win ");
    put(&mut footer, 48, &size_bytes.to_be_bytes());
    put(&mut footer, 60, &kind.to_be_bytes());
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut footer, 64, &(!sum).to_be_bytes());
    footer
}

/// A vpc image of fixed size that holds these bytes.
pub(crate) fn fixed_vpc(bytes: &[u8]) -> Vec<u8> {
    [bytes, &vpc_footer(bytes.len() as u64, 2, u64::MAX)].concat()
}

fn vpc(blueprint: &Blueprint) -> Vec<u8> {
    let block = 1_u32 << blueprint.block_bits;
    let blocks = blueprint.size_bytes.div_ceil(block.into()) as u32;
    let table_bytes = (4 * blocks as usize).next_multiple_of(512);
    let footer = vpc_footer(blueprint.size_bytes, 3, 512);
    let mut bytes = footer.clone();
    bytes.resize(1536, 0);
    put(&mut bytes, 512, b"cxsparse");
    put(&mut bytes, 528, &1536_u64.to_be_bytes());
    put(&mut bytes, 540, &blocks.to_be_bytes());
    put(&mut bytes, 544, &block.to_be_bytes());
    bytes.resize(1536 + table_bytes, 0xff);
    bytes.extend(footer);
    bytes
}

fn vhdx(blueprint: &Blueprint) -> Vec<u8> {
    const REGIONS: [([u8; 16], u64); 2] = [
        ([0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08], 3 << 20),
        ([0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e], 2 << 20),
    ];
    let items: [([u8; 16], Vec<u8>); 3] = [
        (
            [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b],
            (1_u64 << 20).to_le_bytes().to_vec(),
        ),
        (
            [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8],
            blueprint.size_bytes.to_le_bytes().to_vec(),
        ),
        (
            [0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f],
            512_u32.to_le_bytes().to_vec(),
        ),
    ];
    let mut bytes = vec![0; 4 << 20];
    put(&mut bytes, 0, b"vhdxfile");
    for (number, start) in [(1_u64, 64 << 10), (2, 128 << 10)] {
        put(&mut bytes, start, b"head");
        put(&mut bytes, start + 8, &number.to_le_bytes());
        put(&mut bytes, start + 66, &[1, 0, 0, 0, 0x10, 0, 0, 0, 0x10]);
        seal(&mut bytes[start..start + 4096]);
    }
    for start in [192 << 10, 256 << 10] {
        put(&mut bytes, start, b"regi");
        bytes[start + 8] = 2;
        for (entry, (guid, offset)) in REGIONS.iter().enumerate() {
            let at = start + 16 + 32 * entry;
            put(&mut bytes, at, guid);
            put(&mut bytes, at + 16, &offset.to_le_bytes());
            put(&mut bytes, at + 24, &[0, 0, 0x10, 0, 1]);
        }
        seal(&mut bytes[start..start + (64 << 10)]);
    }
    let metadata = 2 << 20;
    put(&mut bytes, metadata, b"metadata");
    bytes[metadata + 10] = 3;
    for (entry, (guid, value)) in items.iter().enumerate() {
        let (at, offset) = (metadata + 32 + 32 * entry, (64 << 10) + 16 * entry);
        put(&mut bytes, at, guid);
        put(&mut bytes, at + 16, &(offset as u32).to_le_bytes());
        put(&mut bytes, at + 20, &(value.len() as u32).to_le_bytes());
        put(&mut bytes, at + 24, &4_u32.to_le_bytes());
        put(&mut bytes, metadata + offset, value);
    }
    bytes
}

/// Puts CRC-32C of a structure into its second four bytes, which count as zeros.
fn seal(structure: &mut [u8]) {
    structure[4..8].fill(0);
    let mut sum = u32::MAX;
    for byte in structure.iter() {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    structure[4..8].copy_from_slice(&(!sum).to_le_bytes());
}
