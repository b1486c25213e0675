//! What is worth telling of a qed image.

use instar_abi::report::info_flag;
use instar_formats::qed::feature;

use super::Found;
use crate::qed;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let header = qed::read_header(storage, 0, device)?;
    let name = qed::backing_name(storage, 0, device, &header)?;
    found.report.l1_entries = header.geometry.tables_for(header.image_size_bytes);
    found.describe(header.image_size_bytes, header.geometry.cluster_size_bytes, name.as_deref());
    if header.features & feature::NEED_CHECK != 0 {
        found.report.flags |= info_flag::DIRTY;
    }
    if name.is_some() && header.features & feature::BACKING_IS_RAW != 0 {
        found.report.flags |= info_flag::HAS_BACKING_FORMAT;
        found.report.backing_format[..3].copy_from_slice(b"raw");
        found.report.backing_format_length_bytes = 3;
    }
    Ok(())
}
