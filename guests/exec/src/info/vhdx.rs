//! What is worth telling of a vhdx image.

use super::Found;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::vhdx;

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let metadata = vhdx::describe(storage, 0, device)?.metadata;
    found.describe(metadata.disk_size_bytes, metadata.block_size_bytes, None);
    Ok(())
}
