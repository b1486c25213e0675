//! vmdk images built in memory.

/// What a sparse vmdk image is like before anything is written to it.
#[derive(Clone, Debug)]
pub(crate) struct Sparse {
    pub(crate) sectors: u64,
    pub(crate) grain_sectors: u64,
    pub(crate) table_entries: u32,
    /// Whether entry 1 means zeros.
    pub(crate) zeroed_grains: bool,
    /// Whether there is a second grain directory.
    pub(crate) redundant: bool,
    pub(crate) compressed: bool,
    /// Whether the grain tables exist from the beginning.
    pub(crate) preallocated: bool,
    pub(crate) cid: u32,
    pub(crate) parent_cid: u32,
}

const DESCRIPTOR_SECTORS: u64 = 2;

/// An empty sparse image with its descriptor inside.
pub(crate) fn sparse(shape: &Sparse) -> Vec<u8> {
    let tables = shape.sectors.div_ceil(shape.grain_sectors * u64::from(shape.table_entries));
    let directory_sectors = (tables * 4).div_ceil(512);
    let table_sectors = (u64::from(shape.table_entries) * 4).div_ceil(512);
    let copies = if shape.redundant { 2 } else { 1 };
    let mut directories = [0; 2];
    let mut next = 1 + DESCRIPTOR_SECTORS;
    let mut bytes = vec![0; 512];
    let descriptor = descriptor("monolithicSparse", shape.cid, shape.parent_cid, "");
    bytes.extend_from_slice(descriptor.as_bytes());
    bytes.resize((next * 512) as usize, 0);
    for directory in directories.iter_mut().take(copies) {
        *directory = next;
        next += directory_sectors;
        bytes.resize((next * 512) as usize, 0);
        for table in (0..tables).filter(|_| shape.preallocated) {
            let at = (*directory * 512 + table * 4) as usize;
            bytes[at..at + 4].copy_from_slice(&(next as u32).to_le_bytes());
            next += table_sectors;
            bytes.resize((next * 512) as usize, 0);
        }
    }
    let flags = 1 | u32::from(shape.redundant) << 1 | u32::from(shape.zeroed_grains) << 2;
    let flags = if shape.compressed { flags | 3 << 16 } else { flags };
    bytes[..4].copy_from_slice(b"KDMV");
    bytes[4] = 3;
    bytes[8..12].copy_from_slice(&flags.to_le_bytes());
    bytes[44..48].copy_from_slice(&shape.table_entries.to_le_bytes());
    bytes[77] = u8::from(shape.compressed);
    let longs = [
        (12, shape.sectors),
        (20, shape.grain_sectors),
        (28, 1),
        (36, DESCRIPTOR_SECTORS),
        (48, directories[1]),
        (56, directories[0]),
        (64, next),
    ];
    for (offset, value) in longs {
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// A descriptor; `extents` are whole lines.
pub(crate) fn descriptor(create_type: &str, cid: u32, parent_cid: u32, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:x}\nparentCID={parent_cid:x}\ncreateType=\"{create_type}\"\n{extents}\n"
    )
}
