//! What names the backing file, in each format of overlays: planned before anything is copied, so that what cannot be written
//! is refused while nothing has changed, and written after everything else.

use alloc::vec::Vec;

use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::qed;
use instar_formats::vmdk::Cid;
use instar_plan::rebase::plan_header;

use super::order::Order;
use crate::job::Job;
use crate::layer::Result;
use crate::open::image_device;
use crate::qcow2::HeaderChange;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::vmdk::{DescriptorChange, describe};

/// "Operation not supported".
const ENOTSUP: i32 = 95;

/// What is to be written.
pub(super) enum Heading {
    /// The header of a qcow2 image, with the tables where they are now.
    Qcow2(HeaderChange),
    /// The header of a qed image and the name behind it.
    Qed(DeviceId, Vec<u8>),
    /// A vmdk image's descriptor.
    Vmdk(DescriptorChange),
}

impl Heading {
    /// Whether the overlay is of a format whose backing file can be changed.
    ///
    /// # Errors
    /// If the job has no overlay.
    pub(super) fn is_known(job: &Job<'_>) -> Result<bool> {
        Ok(matches!(image_device(job, 0)?.1, format::QCOW2 | format::QED | format::VMDK))
    }

    /// The refusal of all other formats.
    pub(super) fn unknown() -> Failure {
        Failure { errno: ENOTSUP, ..refused("Operation not supported") }
    }

    /// Plans for the overlay, layer 0. Nothing is written.
    ///
    /// # Errors
    /// If the overlay's format knows no backing files, or its header has no place for this one.
    pub(super) fn plan(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<Self> {
        let (device, image_format) = image_device(job, 0)?;
        match image_format {
            format::QCOW2 => {
                let mut is_encrypted = false;
                let change = HeaderChange::plan(storage, 0, device, |header| {
                    is_encrypted = header.is_encrypted();
                    plan_header(header, &order.backing()).map_err(refused)
                })?;
                if order.compresses && !order.is_unsafe && is_encrypted {
                    // Compressed clusters are stored as they are: what they hold could be read without the key.
                    let text = "Compression and encryption not supported at the same time";
                    return Err(Failure::new(error_kind::REFUSED, 0, text));
                }
                Ok(Self::Qcow2(change))
            }
            format::QED => plan_qed(storage, device, order),
            format::VMDK => plan_vmdk(storage, job, device, order),
            _ => Err(Self::unknown()),
        }
    }

    /// Writes it, durably. Everything else must be durable already.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn write(&self, storage: &mut dyn Storage) -> Result<()> {
        match self {
            Self::Qcow2(change) => change.write(storage),
            Self::Qed(device, header) => {
                storage.write(*device, 0, header).map_err(|error| Failure::storage(0, error))?;
                storage.flush(*device).map_err(|error| Failure::storage(0, error))
            }
            Self::Vmdk(change) => change.write(storage),
        }
    }
}

fn refused(text: impl core::fmt::Display) -> Failure {
    Failure::new(error_kind::JOB, 0, text)
}

fn plan_qed(storage: &mut dyn Storage, device: DeviceId, order: &Order) -> Result<Heading> {
    crate::qed::read_header(storage, 0, device)?;
    let mut fixed = [0; qed::HEADER_BYTES];
    storage.read(device, 0, &mut fixed).map_err(|error| Failure::storage(0, error))?;
    let backing = order.backing();
    if !backing.name.is_empty() && backing.format_name.is_empty() {
        return Err(refused("backing format must be specified"));
    }
    let header = qed::Header::with_backing(&fixed, backing.name, backing.format_name == b"raw");
    header.map(|header| Heading::Qed(device, header)).map_err(|_| refused("Invalid argument"))
}

fn plan_vmdk(storage: &mut dyn Storage, job: &Job<'_>, device: DeviceId, order: &Order) -> Result<Heading> {
    let backing = order.backing();
    let parent = if backing.name.is_empty() {
        None
    } else if backing.format_name == b"vmdk" {
        Some((backing.name, parent_cid(storage, job, order)?))
    } else {
        return Err(refused("a vmdk image can only be based on a vmdk image"));
    };
    DescriptorChange::plan(storage, 0, device, parent).map(Heading::Vmdk)
}

/// The content identifier of the new backing file; `None` where the job does not have the file.
fn parent_cid(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<Option<Cid>> {
    let Some(layer) = order.parent() else { return Ok(None) };
    let (device, image_format) = image_device(job, layer)?;
    if image_format != format::VMDK {
        return Err(refused("a vmdk image can only be based on a vmdk image"));
    }
    Ok(Some(describe(storage, layer, device)?.descriptor.cid_or_none()))
}
