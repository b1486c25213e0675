//! What is worth telling of a parallels image. Its cluster size is not shown anywhere.

use super::Found;
use crate::parallels;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let header = parallels::read_header(storage, 0, device)?;
    found.describe(header.size_bytes, 0, None);
    Ok(())
}
