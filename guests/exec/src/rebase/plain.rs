//! The rebase that is tried before anybody has looked at the image: a new backing name in the header of a qcow2 image that
//! needs nothing else. Saves a sandbox where that is all there is to do, which is nearly always.

use alloc::string::String;
use alloc::vec;

use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::probe::{Format, PROBE_BYTES, probe};
use instar_formats::qcow2::Header;
use instar_plan::rebase::plan_header;

use super::order::Order;
use crate::job::Job;
use crate::layer::Result;
use crate::open::image_device;
use crate::qcow2::HeaderChange;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Changes the header, durably.
///
/// # Errors
/// [`error_kind::NOT_PLAIN`] if there is more to it, or anything to object: whoever knows more says what. If the device
/// refuses.
pub(super) fn rebase(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<()> {
    let (device, image_format) = image_device(job, 0)?;
    let is_qcow2 = match image_format {
        format::QCOW2 => true,
        format::PROBE => looks_like_qcow2(storage, device).map_err(unread)?,
        _ => false,
    };
    if !is_qcow2 || !order.is_unsafe {
        return Err(not_plain());
    }
    let wanted = |header: &Header| {
        if header.is_dirty() || header.is_encrypted() {
            return Err(not_plain());
        }
        plan_header(header, &order.backing()).map_err(|_| not_plain())
    };
    HeaderChange::plan(storage, 0, device, wanted).map_err(unread)?.write(storage)
}

fn looks_like_qcow2(storage: &mut dyn Storage, device: DeviceId) -> Result<bool> {
    let mut start = vec![0; PROBE_BYTES];
    storage.read(device, 0, &mut start).map_err(|error| Failure::storage(0, error))?;
    Ok(probe(&start) == Format::Qcow2)
}

/// What keeps the image from being changed: that it cannot be read is told at once, everything else by whoever looks at it.
fn unread(failure: Failure) -> Failure {
    match failure.kind {
        error_kind::STORAGE => Failure { kind: error_kind::OPEN, text: String::new(), ..failure },
        _ => not_plain(),
    }
}

fn not_plain() -> Failure {
    Failure::new(error_kind::NOT_PLAIN, 0, "the image has to be looked at first")
}
