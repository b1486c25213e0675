//! What is worth telling of a qcow image of version 1.

use instar_abi::report::info_flag;

use super::Found;
use crate::qcow;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let header = qcow::read_header(storage, 0, device)?;
    let name = qcow::backing_name(storage, 0, device, &header)?;
    found.report.l1_entries = header.geometry.l1_entries(header.size_bytes);
    found.describe(header.size_bytes, header.geometry.cluster_size_bytes(), name.as_deref());
    if header.is_encrypted {
        found.report.flags |= info_flag::ENCRYPT_AES;
    }
    Ok(())
}
