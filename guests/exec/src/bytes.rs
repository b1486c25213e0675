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
