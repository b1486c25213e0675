//! Opens the layers of a job in their formats: the one place that knows them all.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::qcow2::Access;

use crate::job::Job;
use crate::layer::{Layer, Result};
use crate::qcow2::{Emptier, Image, Qcow2Target};
use crate::raw::{Raw, RawTarget};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;

/// Opens several layers for reading, topmost first.
///
/// # Errors
/// As [`open_layer`].
pub fn open_layers(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    layers: core::ops::Range<u32>,
) -> Result<Vec<Box<dyn Layer>>> {
    layers.map(|layer| open_layer(storage, job, layer)).collect()
}

/// Opens one layer for reading.
///
/// # Errors
/// If its format is not one that can be read, or its metadata is invalid.
pub fn open_layer(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<Box<dyn Layer>> {
    let (device, entry) = image_device(job, layer)?;
    match entry {
        format::RAW => Ok(Box::new(Raw::open(storage, layer, device))),
        // Whoever is named on the command line is opened for writing, as qemu-img does, even where nothing will be written.
        format::QCOW2 => {
            let access = if layer == 0 { Access::ReadWrite } else { Access::ReadOnly };
            Ok(Box::new(open_qcow2(storage, job, layer, access)?))
        }
        _ => Err(Failure::new(error_kind::UNSUPPORTED, layer, "images of this format cannot be read yet")),
    }
}

fn open_qcow2(storage: &mut dyn Storage, job: &Job<'_>, layer: u32, access: Access) -> Result<Image> {
    let (device, _) = image_device(job, layer)?;
    Image::open(storage, layer, device, job.data(layer, 0).map(|(device, _)| device), access)
}

/// Prepares the emptying of layer 0; `None` where its format cannot be emptied, which is then left as it is.
///
/// # Errors
/// If it could not be emptied although its format can.
pub fn open_emptier(storage: &mut dyn Storage, job: &Job<'_>) -> Result<Option<Emptier>> {
    if image_device(job, 0)?.1 != format::QCOW2 {
        return Ok(None);
    }
    let image = open_qcow2(storage, job, 0, Access::ReadWrite)?;
    Emptier::new(storage, image).map(Some)
}

/// Opens one layer for writing.
///
/// # Errors
/// If its format is not one that can be written, or its metadata cannot be trusted.
pub fn open_target(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<Box<dyn Target>> {
    let (device, entry) = image_device(job, layer)?;
    match entry {
        format::RAW => Ok(Box::new(RawTarget::new(Raw::open(storage, layer, device)))),
        format::QCOW2 => {
            let image = open_qcow2(storage, job, layer, Access::ReadOnly)?;
            Ok(Box::new(Qcow2Target::new(storage, image, layer + 1 < job.layer_count)?))
        }
        _ => Err(Failure::new(error_kind::UNSUPPORTED, layer, "images of this format cannot be written yet")),
    }
}

fn image_device(job: &Job<'_>, layer: u32) -> Result<(DeviceId, u32)> {
    job.image(layer)
        .map(|(device, entry)| (device, entry.format))
        .ok_or_else(|| Failure::new(error_kind::INTERNAL, layer, "the job has a layer without an image"))
}
