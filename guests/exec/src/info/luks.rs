//! What is worth telling of the LUKS header inside an encrypted qcow2 image.

use instar_abi::report::{LuksItem, LuksSlotItem, error_kind, payload_kind};
use instar_abi::wire::Wire;
use instar_formats::luks::{HEADER_BYTES, LuksHeader, SLOTS};
use instar_formats::qcow2::CryptoHeaderPointer;
use instar_formats::qcow2::header::MAX_READABLE_OFFSET;

use super::{Found, cannot_open};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

pub(super) fn inspect(
    storage: &mut dyn Storage,
    device: DeviceId,
    pointer: CryptoHeaderPointer,
    found: &mut Found,
) -> Result<(), Failure> {
    if pointer.length_bytes < HEADER_BYTES as u64 {
        return Err(cannot_open("Request for data outside of extension header"));
    }
    if pointer.offset > MAX_READABLE_OFFSET - HEADER_BYTES as u64 {
        return Err(cannot_open("Could not read encryption header: Input/output error"));
    }
    let mut bytes = [0; HEADER_BYTES];
    storage.read(device, pointer.offset, &mut bytes).map_err(|error| Failure::storage(0, error))?;
    let header = LuksHeader::parse(&bytes).map_err(cannot_open)?;
    let item = LuksItem {
        payload_offset_bytes: header.payload_offset_bytes,
        master_key_iterations: header.master_key_iterations,
        reserved: 0,
        cipher_alg: padded(header.cipher.algorithm.as_bytes())?,
        cipher_mode: padded(header.cipher.mode.as_bytes())?,
        ivgen_alg: padded(header.cipher.iv_generator.as_bytes())?,
        ivgen_hash_alg: padded(header.cipher.iv_hash.unwrap_or_default().as_bytes())?,
        hash_alg: padded(header.hash.as_bytes())?,
        uuid: padded(&header.uuid)?,
    };
    let mut slots = [[0; LuksSlotItem::SIZE_BYTES]; SLOTS];
    for (slot, bytes) in header.slots.iter().zip(&mut slots) {
        let item = LuksSlotItem {
            is_active: slot.is_active.into(),
            iterations: slot.iterations,
            stripes: slot.stripes,
            reserved: 0,
            key_offset_bytes: slot.key_offset_bytes,
        };
        item.put(bytes);
    }
    found.push(payload_kind::LUKS, &item, &[slots.as_flattened()])
}

fn padded<const N: usize>(name: &[u8]) -> Result<[u8; N], Failure> {
    let mut field = [0; N];
    match field.get_mut(..name.len()) {
        Some(start) => start.copy_from_slice(name),
        None => return Err(Failure::new(error_kind::INTERNAL, 0, "a name of the LUKS header is too long")),
    }
    Ok(field)
}
