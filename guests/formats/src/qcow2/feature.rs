//! The feature bits of a qcow2 header and the table that names them (qcow2.txt, "Feature name table").

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::bytes::until_zero;

/// Incompatible feature: the refcounts may be stale.
pub const DIRTY: u64 = 1;
/// Incompatible feature: the metadata is known to be broken.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: guest data lies in another file.
pub const EXTERNAL_DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: the compression type is not zlib.
pub const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature: L2 entries have 16 bytes and carry subcluster bitmaps.
pub const EXTENDED_L2: u64 = 1 << 4;
/// All incompatible features that are understood.
pub const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

/// Compatible feature: refcounts may be written late, under the dirty bit.
pub const LAZY_REFCOUNTS: u64 = 1;

/// Autoclear feature: the bitmaps extension is consistent with the image.
pub const BITMAPS: u64 = 1;
/// Autoclear feature: the external data file is a raw image of the guest's disk.
pub const RAW_EXTERNAL_DATA: u64 = 1 << 1;
/// All autoclear features that are understood; a writer clears all others.
pub const KNOWN_AUTOCLEAR: u64 = BITMAPS | RAW_EXTERNAL_DATA;

/// Length of one entry of the feature name table in bytes.
const ENTRY_BYTES: usize = 48;

/// Which of the three masks a feature belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// Type 0.
    Incompatible,
    /// Type 1.
    Compatible,
    /// Type 2.
    Autoclear,
    /// Any other type.
    Other(u8),
}

impl FeatureKind {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Incompatible,
            1 => Self::Compatible,
            2 => Self::Autoclear,
            other => Self::Other(other),
        }
    }
}

/// One entry of an image's feature name table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureName {
    /// The mask that the bit belongs to.
    pub kind: FeatureKind,
    /// Bit number in that mask, 0 to 63 where it makes sense.
    pub bit: u8,
    /// The name, up to 46 bytes, without padding.
    pub name: Vec<u8>,
}

/// Reads a feature name table; a last entry that is cut off is left out.
pub(crate) fn parse_names(data: &[u8]) -> Vec<FeatureName> {
    data.chunks_exact(ENTRY_BYTES)
        .map(|entry| FeatureName {
            kind: FeatureKind::from_byte(entry[0]),
            bit: entry[1],
            name: until_zero(&entry[2..]).to_vec(),
        })
        .collect()
}

/// The table that every header gets when it is written: type, bit, name.
const OWN_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The bytes of the feature name table that a rewritten header carries.
pub(crate) fn own_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(OWN_NAMES.len() * ENTRY_BYTES);
    for (kind, bit, name) in OWN_NAMES {
        let end = table.len() + ENTRY_BYTES;
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(end, 0);
    }
    table
}

/// Describes unknown incompatible bits: names from the image's own table, which ends at its first entry without a name,
/// and what is left as a hexadecimal mask.
pub(crate) fn describe_incompatible(mut mask: u64, names: &[FeatureName]) -> String {
    let mut text = String::new();
    for entry in names.iter().take_while(|entry| !entry.name.is_empty()) {
        let bit = 1u64.checked_shl(u32::from(entry.bit)).unwrap_or(0);
        if entry.kind == FeatureKind::Incompatible && mask & bit != 0 {
            mask &= !bit;
            separate(&mut text);
            text.push_str(&String::from_utf8_lossy(&entry.name));
        }
    }
    if mask != 0 {
        separate(&mut text);
        // Writing to a string cannot fail.
        let _ = write!(text, "Unknown incompatible feature: {mask:x}");
    }
    text
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push_str(", ");
    }
}
