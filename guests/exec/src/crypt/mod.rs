//! Encrypted layers: their keys, and their data as plain bytes.
//!
//! Every device with encrypted data has a second number, [`DeviceId::plain`], under which [`Unlocked`] shows what the
//! ciphertext stands for. Images name that number as the place of their data; planners and everything that moves bytes
//! see a device like any other, and no key.

mod cipher;
mod derive;
mod storage;
mod unlock;

use alloc::collections::BTreeMap;
use core::fmt;

use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::luks::{HEADER_BYTES, LuksHeader, Slot};
use instar_formats::qcow2::{Access, CryptMethod};

pub(crate) use storage::Unlocked;

use crate::bytes::read_vec;
use crate::job::Job;
use crate::layer::Result;
use crate::open::image_device;
use crate::qcow2::read_header;
use crate::report::{EKEYREJECTED, ENOTSUP, Failure};
use crate::storage::{DeviceId, Storage};
use storage::View;
use unlock::{Place, unlock};

/// Finds the keys of all encrypted layers of a job.
///
/// # Errors
/// If a header cannot be read, a layer's passphrase lacks or opens nothing, or its cipher is not supported.
pub(crate) fn unlock_layers<'a>(storage: &'a mut dyn Storage, job: &Job<'_>) -> Result<Unlocked<'a>> {
    let mut views = BTreeMap::new();
    for layer in 0..job.layer_count {
        let (device, image_format) = image_device(job, layer)?;
        let found = match image_format {
            format::QCOW2 => qcow2_view(storage, job, layer, device)?,
            format::LUKS => Some((device, luks_view(storage, job, layer, device)?)),
            _ => None,
        };
        views.extend(found);
    }
    Ok(Unlocked::new(storage, views))
}

/// The data of an encrypted qcow2 image: encrypted by where it lies in its file.
fn qcow2_view(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    layer: u32,
    device: DeviceId,
) -> Result<Option<(DeviceId, View)>> {
    let access = if layer == 0 { Access::ReadWrite } else { Access::ReadOnly };
    let header = read_header(storage, layer, device, access)?;
    if !header.is_encrypted() {
        return Ok(None);
    }
    let passphrase =
        job.secret(layer).ok_or_else(|| wrong_key(layer, "Parameter 'encrypt.key-secret' is required for cipher"))?;
    let Some(pointer) = header.extensions.crypto_header.filter(|_| header.crypt_method == CryptMethod::Luks) else {
        let text = "The old AES encryption is not supported; convert the image to LUKS first (qemu-img convert)";
        return Err(unsupported(layer, text));
    };
    let place = Place { layer, device, offset: pointer.offset };
    let luks = read_luks(storage, &place)?;
    let end_of_material =
        |slot: &Slot| slot.key_offset_bytes.saturating_add(slot.material_bytes(luks.key_bytes) as u64);
    let is_outside = |slot: &Slot| slot.is_active && end_of_material(slot) > pointer.length_bytes;
    if pointer.length_bytes < HEADER_BYTES as u64 || luks.slots.iter().any(is_outside) {
        return Err(cannot_open(layer, "Request for data outside of extension header"));
    }
    let cipher = unlock(storage, &place, &luks, passphrase)?;
    let data_device = job.data(layer, 0).map_or(device, |(device, _)| device);
    Ok(Some((data_device, View { cipher, start_bytes: 0 })))
}

/// The data of a LUKS volume, counted from where it begins.
fn luks_view(storage: &mut dyn Storage, job: &Job<'_>, layer: u32, device: DeviceId) -> Result<View> {
    let place = Place { layer, device, offset: 0 };
    let luks = read_luks(storage, &place)?;
    let passphrase =
        job.secret(layer).ok_or_else(|| wrong_key(layer, "Parameter 'key-secret' is required for cipher"))?;
    let cipher = unlock(storage, &place, &luks, passphrase)?;
    Ok(View { cipher, start_bytes: luks.payload_offset_bytes })
}

fn read_luks(storage: &mut dyn Storage, place: &Place) -> Result<LuksHeader> {
    let bytes = read_vec(storage, place.layer, place.device, place.offset, HEADER_BYTES as u64)?;
    LuksHeader::parse(&bytes).map_err(|error| cannot_open(place.layer, error))
}

/// A finding that keeps a layer from being opened.
fn cannot_open(layer: u32, text: impl fmt::Display) -> Failure {
    Failure::new(error_kind::OPEN, layer, text)
}

/// An encryption that is not supported.
fn unsupported(layer: u32, text: impl fmt::Display) -> Failure {
    cannot_open(layer, text).with_errno(ENOTSUP)
}

/// A passphrase that is not there or opens nothing.
fn wrong_key(layer: u32, text: &str) -> Failure {
    cannot_open(layer, text).with_errno(EKEYREJECTED)
}
