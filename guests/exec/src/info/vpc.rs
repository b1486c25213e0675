//! What is worth telling of a vpc image.

use super::Found;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::vpc;

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let description = vpc::describe(storage, 0, device)?;
    // A fixed disk has no clusters.
    let block_size_bytes = description.sparse.map_or(0, |sparse| sparse.block_size_bytes);
    found.describe(description.footer.size_bytes, block_size_bytes, None);
    Ok(())
}
