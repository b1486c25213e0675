//! What is worth telling of a vdi image.

use instar_formats::vdi::BLOCK_BYTES;

use super::Found;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::vdi;

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let header = vdi::read_header(storage, 0, device)?;
    found.describe(header.disk_size_bytes, BLOCK_BYTES, None);
    Ok(())
}
