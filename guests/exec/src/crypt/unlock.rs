//! Finds the master key of a LUKS header with a passphrase.
//!
//! Source: LUKS On-Disk Format Specification 1.2.3, "Recovering the master key".

use alloc::vec;

use instar_formats::luks::{DIGEST_BYTES, LuksHeader, SLOTS, Slot};
use zeroize::Zeroizing;

use super::cipher::SectorCipher;
use super::derive::Hash;
use super::{cannot_open, unsupported, wrong_key};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// The most digests that a header may ask for, over all its slots: some fifty times of what image tools ask for, and
/// a few minutes of work. A header with more is there to keep somebody busy.
const DIGESTS_MAX: u64 = 1 << 30;

/// A LUKS header in a file.
pub(super) struct Place {
    /// Number of the layer, for messages.
    pub(super) layer: u32,
    /// The file.
    pub(super) device: DeviceId,
    /// Where the header begins.
    pub(super) offset: u64,
}

impl Place {
    fn read(&self, storage: &mut dyn Storage, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let offset = self.offset.checked_add(offset).ok_or_else(|| cannot_open(self.layer, "Input/output error"))?;
        storage.read(self.device, offset, buffer).map_err(|error| Failure::storage(self.layer, error))
    }
}

/// The cipher for the data behind a header.
///
/// # Errors
/// If the header asks for what is not supported, or no slot opens with the passphrase.
pub(super) fn unlock(
    storage: &mut dyn Storage,
    place: &Place,
    header: &LuksHeader,
    passphrase: &[u8],
) -> Result<SectorCipher> {
    let hash = Hash::named(header.hash)
        .ok_or_else(|| unsupported(place.layer, format_args!("Hash algorithm '{}' not supported", header.hash)))?;
    let digests = digests(header, hash);
    if digests > DIGESTS_MAX {
        return Err(cannot_open(
            place.layer,
            format_args!("Its key slots ask for {digests} rounds of hashing; no more than {DIGESTS_MAX} are done"),
        ));
    }
    for slot in active(header) {
        if let Some(cipher) = open_slot(storage, place, header, hash, slot, passphrase)? {
            return Ok(cipher);
        }
    }
    Err(wrong_key(place.layer, "Invalid password, cannot unlock any keyslot"))
}

fn active(header: &LuksHeader) -> impl Iterator<Item = &Slot> {
    let slots: &[Slot; SLOTS] = &header.slots;
    slots.iter().filter(|slot| slot.is_active)
}

/// How many digests a passphrase takes that opens no slot.
fn digests(header: &LuksHeader, hash: Hash) -> u64 {
    let blocks = |length: usize| length.div_ceil(hash.digest_bytes()) as u64;
    let check = u64::from(header.master_key_iterations) * blocks(DIGEST_BYTES);
    active(header).map(|slot| u64::from(slot.iterations) * blocks(header.key_bytes) + check).sum()
}

/// The cipher, if the passphrase opens the slot.
fn open_slot(
    storage: &mut dyn Storage,
    place: &Place,
    header: &LuksHeader,
    hash: Hash,
    slot: &Slot,
    passphrase: &[u8],
) -> Result<Option<SectorCipher>> {
    let cipher_for =
        |key: &[u8]| SectorCipher::new(&header.cipher, key).map_err(|error| unsupported(place.layer, error));
    // The host stops a sandbox that it hears nothing of for long; a request tells it that this one is at work.
    let alive = |storage: &mut dyn Storage| place.read(storage, 0, &mut [0]);

    let mut slot_key = Zeroizing::new(vec![0; header.key_bytes]);
    hash.stretch(passphrase, &slot.salt, slot.iterations, &mut slot_key, &mut || alive(storage))?;
    let mut material = Zeroizing::new(vec![0; slot.material_bytes(header.key_bytes)]);
    place.read(storage, slot.key_offset_bytes, &mut material)?;
    cipher_for(&slot_key)?.decrypt(0, &mut material);

    let mut master_key = Zeroizing::new(vec![0; header.key_bytes]);
    hash.merge_stripes(&material, &mut master_key);
    let mut digest = [0; DIGEST_BYTES];
    let (salt, iterations) = (&header.master_key_salt, header.master_key_iterations);
    hash.stretch(&master_key, salt, iterations, &mut digest, &mut || alive(storage))?;
    if digest == header.master_key_digest { cipher_for(&master_key).map(Some) } else { Ok(None) }
}
