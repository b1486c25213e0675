//! Opens the layers of a job in their formats: the one place that knows them all.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::qcow2::Access;

use crate::blocks::{Blocks, BlocksTarget};
use crate::job::Job;
use crate::layer::{Layer, Result};
use crate::qcow::QcowEmptier;
use crate::qcow2::{Emptier as Qcow2Emptier, Image, Qcow2Target, repair_if_dirty};
use crate::raw::{Raw, RawTarget};
use crate::repairs::Repairs;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;
use crate::vmdk::{self, Neighbours, VmdkEmptier, VmdkTarget};
use crate::{parallels, qcow, qed, vdi, vhdx, vpc};

/// Opens several layers for reading, topmost first.
///
/// # Errors
/// As [`open_layer`].
pub fn open_layers(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    layers: core::ops::Range<u32>,
) -> Result<Vec<Box<dyn Layer>>> {
    let first = layers.start;
    let opened = layers.map(|layer| open_layer(storage, job, layer)).collect::<Result<Vec<_>>>()?;
    for (layer, pair) in (first..).zip(opened.windows(2)) {
        // Bytes of an image that is not the one that the upper image was made for mean nothing there.
        if let (Some((_, wanted)), Some((own, _))) = (pair[0].content_ids(), pair[1].content_ids())
            && own != wanted
        {
            return Err(vmdk::stale_parent(layer, wanted, own));
        }
    }
    Ok(opened)
}

/// Opens one layer for reading.
///
/// # Errors
/// If its format is not one that can be read, or its metadata is invalid.
pub fn open_layer(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<Box<dyn Layer>> {
    let (device, entry) = image_device(job, layer)?;
    match entry {
        format::RAW => Ok(Box::new(Raw::open(storage, layer, device))),
        format::LUKS => Ok(Box::new(Raw::open(storage, layer, device.plain()))),
        // Whoever is named on the command line is opened for writing, as qemu-img does, even where nothing will be written.
        format::QCOW2 => {
            let access = if layer == 0 { Access::ReadWrite } else { Access::ReadOnly };
            Ok(Box::new(open_qcow2(storage, job, layer, access)?))
        }
        format::VMDK => Ok(Box::new(open_vmdk(storage, job, layer)?)),
        format::VPC => vpc::open(storage, layer, device),
        _ => Ok(Box::new(open_blocks(storage, layer, device, entry)?)),
    }
}

/// Opens a layer of one of the formats that are made of tables and blocks.
pub(crate) fn open_blocks(storage: &mut dyn Storage, layer: u32, device: DeviceId, entry: u32) -> Result<Blocks> {
    match entry {
        format::QED => qed::open(storage, layer, device),
        format::QCOW => qcow::open(storage, layer, device),
        format::VDI => vdi::open(storage, layer, device),
        format::VHDX => vhdx::open(storage, layer, device),
        format::PARALLELS => parallels::open(storage, layer, device),
        _ => Err(Failure::new(error_kind::UNSUPPORTED, layer, "images of this format cannot be read yet")),
    }
}

/// Opens a layer that is known to be qcow2.
pub(crate) fn open_qcow2(storage: &mut dyn Storage, job: &Job<'_>, layer: u32, access: Access) -> Result<Image> {
    let (device, _) = image_device(job, layer)?;
    Image::open(storage, layer, device, job.data(layer, 0).map(|(device, _)| device), access)
}

/// Repairs a layer that was not closed properly, if the job may write to it and its format knows of such a thing.
///
/// # Errors
/// If it cannot be repaired.
pub fn repair_layer(storage: &mut dyn Storage, job: &Job<'_>, layer: u32, repairs: &mut Repairs) -> Result<()> {
    match image_device(job, layer)? {
        (device, format::QCOW2) if job.is_writable(device) => repair_if_dirty(storage, layer, device, repairs),
        _ => Ok(()),
    }
}

/// How an overlay is going to be emptied.
pub enum Emptier {
    /// A qcow2 image.
    Qcow2(Qcow2Emptier),
    /// A qcow image of version 1.
    Qcow(QcowEmptier),
    /// A vmdk image.
    Vmdk(VmdkEmptier),
}

impl Emptier {
    /// Empties the overlay. The base must be durable.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn empty(self, storage: &mut dyn Storage) -> Result<()> {
        match self {
            Self::Qcow2(emptier) => emptier.empty(storage),
            Self::Qcow(emptier) => emptier.empty(storage),
            Self::Vmdk(emptier) => emptier.empty(storage),
        }
    }
}

/// Prepares the emptying of layer 0; `None` where its format cannot be emptied, which is then left as it is.
///
/// # Errors
/// If it could not be emptied although its format can.
pub fn open_emptier(storage: &mut dyn Storage, job: &Job<'_>) -> Result<Option<Emptier>> {
    match image_device(job, 0)? {
        (device, format::QCOW2) => {
            let data_device = job.data(0, 0).map(|(device, _)| device);
            Ok(Some(Emptier::Qcow2(Qcow2Emptier::new(storage, 0, device, data_device)?)))
        }
        (device, format::QCOW) => Ok(Some(Emptier::Qcow(QcowEmptier::new(storage, 0, device)?))),
        (_, format::VMDK) => {
            let image = open_vmdk(storage, job, 0)?;
            Ok(Some(Emptier::Vmdk(VmdkEmptier::new(storage, &image)?)))
        }
        _ => Ok(None),
    }
}

/// Opens a layer that is known to be vmdk.
pub(crate) fn open_vmdk(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<vmdk::Image> {
    let (device, _) = image_device(job, layer)?;
    vmdk::Image::open(storage, layer, device, |index| job.data(layer, index).map(|(device, _)| device))
}

/// What the layers above and below a vmdk image mean for its content identifier.
fn vmdk_neighbours(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<Neighbours> {
    let is_vmdk = |layer: u32| job.image(layer).is_some_and(|(_, entry)| entry.format == format::VMDK);
    let parent_cid = if is_vmdk(layer + 1) {
        let (device, _) = image_device(job, layer + 1)?;
        Some(vmdk::describe(storage, layer + 1, device)?.descriptor.cid_or_none())
    } else {
        None
    };
    let is_parent_of_vmdk = layer.checked_sub(1).is_some_and(is_vmdk);
    Ok(Neighbours { is_parent_of_vmdk, parent_cid, has_backing: layer + 1 < job.layer_count })
}

/// Opens one layer for writing.
///
/// # Errors
/// If its format is not one that can be written, or its metadata cannot be trusted.
pub fn open_target(storage: &mut dyn Storage, job: &Job<'_>, layer: u32) -> Result<Box<dyn Target>> {
    let (device, entry) = image_device(job, layer)?;
    match entry {
        format::RAW => Ok(Box::new(RawTarget::new(Raw::open(storage, layer, device)))),
        format::LUKS => Ok(Box::new(RawTarget::new(Raw::open(storage, layer, device.plain())))),
        format::QCOW2 => {
            let image = open_qcow2(storage, job, layer, Access::ReadOnly)?;
            Ok(Box::new(Qcow2Target::new(storage, image, layer + 1 < job.layer_count)?))
        }
        format::VMDK => {
            let neighbours = vmdk_neighbours(storage, job, layer)?;
            let image = open_vmdk(storage, job, layer)?;
            Ok(Box::new(VmdkTarget::new(storage, image, neighbours)?))
        }
        format::VPC => vpc::open_target(storage, layer, device),
        format::PARALLELS => Err(parallels::cannot_be_written(layer)),
        _ => {
            let blocks = open_blocks(storage, layer, device, entry)?;
            Ok(Box::new(BlocksTarget::new(storage, blocks, layer + 1 < job.layer_count)?))
        }
    }
}

/// The image device of a layer, and its format.
pub(crate) fn image_device(job: &Job<'_>, layer: u32) -> Result<(DeviceId, u32)> {
    job.image(layer)
        .map(|(device, entry)| (device, entry.format))
        .ok_or_else(|| Failure::new(error_kind::INTERNAL, layer, "the job has a layer without an image"))
}
