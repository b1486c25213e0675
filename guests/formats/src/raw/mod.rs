//! The raw format: a file's bytes are the guest's bytes.

/// Disks are counted in whole sectors of this many bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Size of the disk that a guest sees of a file: its length rounded up to whole sectors. `None` if no disk can be as large.
pub fn virtual_size_bytes(length_bytes: u64) -> Option<u64> {
    length_bytes.checked_next_multiple_of(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_up_to_sectors() {
        assert_eq!(virtual_size_bytes(0), Some(0));
        assert_eq!(virtual_size_bytes(196_616), Some(197_120));
        assert_eq!(virtual_size_bytes(u64::MAX), None);
    }
}
