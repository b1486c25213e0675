//! The vdi header.

use super::{BLOCK_BYTES, VdiError};
use crate::bytes::{le_u32, le_u64};

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 512;
/// Where the header says how many blocks the file holds.
pub const BLOCKS_ALLOCATED_OFFSET: u64 = 388;
/// The most blocks of a disk, a limit of qemu-img.
pub(super) const BLOCKS_MAX: u32 = 0x1fff_ff80;
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x1_0001;
const SECTOR_BYTES: u32 = 512;
const LINK_OFFSET: usize = 424;
const PARENT_OFFSET: usize = 440;
const UUID_BYTES: usize = 16;

/// A header whose numbers fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk in bytes, a multiple of 512.
    pub disk_size_bytes: u64,
    /// Where the block map lies.
    pub map_offset: u64,
    /// Where block 0 of the file lies.
    pub data_offset: u64,
    /// Number of blocks of the disk, the length of the block map.
    pub blocks: u32,
    /// Number of blocks in the file.
    pub blocks_allocated: u32,
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a file.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn parse(bytes: &[u8]) -> Result<Self, VdiError> {
        let field = |offset| le_u32(bytes, offset).unwrap_or(0);
        if bytes.len() < HEADER_BYTES || field(64) != SIGNATURE {
            return Err(VdiError::NotVdi(field(64)));
        }
        // A size between two sectors is rounded up, as qemu-img has it.
        let recorded = le_u64(bytes, 368).unwrap_or(0);
        let disk_size_bytes = recorded.checked_next_multiple_of(SECTOR_BYTES.into()).unwrap_or(u64::MAX);
        let (map_offset, data_offset, blocks) = (field(340), field(344), field(384));
        let room_bytes = u64::from(blocks) * BLOCK_BYTES;
        let is_set = |offset: usize| bytes[offset..offset + UUID_BYTES].iter().any(|byte| *byte != 0);
        if field(68) != VERSION {
            Err(VdiError::Version(field(68)))
        } else if !map_offset.is_multiple_of(SECTOR_BYTES) {
            Err(VdiError::MapOffset(map_offset))
        } else if !data_offset.is_multiple_of(SECTOR_BYTES) {
            Err(VdiError::DataOffset(data_offset))
        } else if field(360) != SECTOR_BYTES {
            Err(VdiError::SectorSize(field(360)))
        } else if u64::from(field(376)) != BLOCK_BYTES {
            Err(VdiError::BlockSize(field(376)))
        } else if disk_size_bytes > room_bytes {
            Err(VdiError::DiskSize { disk_bytes: disk_size_bytes, room_bytes })
        } else if is_set(LINK_OFFSET) {
            Err(VdiError::Link)
        } else if is_set(PARENT_OFFSET) {
            Err(VdiError::Parent)
        } else if blocks > BLOCKS_MAX {
            Err(VdiError::TooManyBlocks(blocks))
        } else if field(380) != 0 {
            Err(VdiError::BlockExtra(field(380)))
        } else {
            Ok(Self {
                disk_size_bytes,
                map_offset: map_offset.into(),
                data_offset: data_offset.into(),
                blocks,
                blocks_allocated: field(388),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let fields = [
            (64, SIGNATURE),
            (68, VERSION),
            (340, 512),
            (344, 1024),
            (360, 512),
            (368, (8 << 20) - 1),
            (376, 1 << 20),
            (384, 8),
            (388, 3),
        ];
        for (offset, value) in fields {
            bytes[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        bytes
    }

    fn with(offset: usize, value: u32) -> Result<Header, VdiError> {
        let mut bytes = header();
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        Header::parse(&bytes)
    }

    #[test]
    fn read_a_header() {
        let wanted =
            Header { disk_size_bytes: 8 << 20, map_offset: 512, data_offset: 1024, blocks: 8, blocks_allocated: 3 };
        assert_eq!(Header::parse(&header()), Ok(wanted));
    }

    #[test]
    fn refuse_impossible_numbers() {
        assert_eq!(with(64, 1), Err(VdiError::NotVdi(1)));
        assert_eq!(with(68, 0x1_0000), Err(VdiError::Version(0x1_0000)));
        assert_eq!(with(340, 511), Err(VdiError::MapOffset(511)));
        assert_eq!(with(344, 513), Err(VdiError::DataOffset(513)));
        assert_eq!(with(360, 4096), Err(VdiError::SectorSize(4096)));
        assert_eq!(with(376, 4096), Err(VdiError::BlockSize(4096)));
        assert_eq!(with(380, 1), Err(VdiError::BlockExtra(1)));
        assert!(matches!(with(372, u32::MAX), Err(VdiError::DiskSize { .. })));
        assert_eq!(with(424, 1), Err(VdiError::Link));
        assert_eq!(with(440, 1), Err(VdiError::Parent));
        assert_eq!(with(384, u32::MAX), Err(VdiError::TooManyBlocks(u32::MAX)));
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(at in 64usize..508, value: u32, tail in proptest::collection::vec(any::<u8>(), 440)) {
            let _ = with(at, value);
            let mut bytes = header();
            bytes[72..].copy_from_slice(&tail);
            let _ = Header::parse(&bytes);
        }
    }
}
