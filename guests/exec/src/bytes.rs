//! Bytes of a device as a value, and numbers as indexes into them.

use alloc::vec;
use alloc::vec::Vec;

use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Offsets within a cluster or a table fit any machine that instar runs on.
pub(crate) fn to_index(value: u64) -> usize {
    usize::try_from(value).expect("offsets within a cluster are below 2^32")
}

/// How many bytes are looked at together: what a compiler makes a few instructions of.
const TOGETHER: usize = 64;

fn any_set(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) != 0
}

/// Whether all bytes are 0.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    !bytes.chunks(TOGETHER).any(any_set)
}

/// How many bytes there are up to the last one that is not 0.
pub(crate) fn used_bytes(bytes: &[u8]) -> usize {
    let used = |(index, chunk): (usize, &[u8])| Some(index * TOGETHER + chunk.iter().rposition(|byte| *byte != 0)? + 1);
    bytes.chunks(TOGETHER).enumerate().rev().filter(|(_, chunk)| any_set(chunk)).find_map(used).unwrap_or(0)
}

/// Reads `length_bytes` into a new buffer.
pub(crate) fn read_vec(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    offset: u64,
    length_bytes: u64,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_index(length_bytes)];
    storage.read(device, offset, &mut bytes).map_err(|error| Failure::storage(layer, error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_all_else() {
        for length in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            assert_eq!(used_bytes(&bytes), 0);
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes));
                assert_eq!(used_bytes(&bytes), at + 1);
            }
            for at in (1..length).rev() {
                bytes[at] = 0;
                assert_eq!(used_bytes(&bytes), at);
            }
        }
    }
}
