//! The header of a LUKS volume, version 1 (LUKS On-Disk Format Specification 1.2.3): how data is encrypted, and where the
//! material for keys lies. No key is ever seen here.

mod cipher;
mod error;

use alloc::string::String;
use alloc::vec::Vec;

pub use cipher::Cipher;
pub use error::LuksError;

use crate::bytes::{array, be_u16, be_u32, until_zero};

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 592;
/// Number of key slots.
pub const SLOTS: usize = 8;
/// "LUKS", 0xba, 0xbe.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

/// Length of a salt in bytes.
pub const SALT_BYTES: usize = 32;
/// Length of the digest of the master key in bytes.
pub const DIGEST_BYTES: usize = 20;
/// Offsets of volumes and key material are counted in sectors of this many bytes, and so is encrypted data.
pub const SECTOR_BYTES: u32 = 512;
/// Sectors that the header and each key slot are aligned to.
const ALIGNMENT_SECTORS: u32 = 8;
/// Anti-forensic stripes; the format's only value.
const STRIPES: u32 = 4000;
/// `state` of a slot that holds a key.
const SLOT_ENABLED: u32 = 0x00ac_71f3;
/// `state` of a slot that holds none.
const SLOT_DISABLED: u32 = 0x0000_dead;

/// A LUKS header whose fields are consistent. Offsets are relative to the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksHeader {
    /// How data is encrypted.
    pub cipher: Cipher,
    /// Hash for keys and digests.
    pub hash: &'static str,
    /// Where the encrypted data begins.
    pub payload_offset_bytes: u64,
    /// Length of the master key, and of every slot's key, in bytes: 16 to 64.
    pub key_bytes: usize,
    /// What a candidate for the master key has to give.
    pub master_key_digest: [u8; DIGEST_BYTES],
    /// The salt of that digest.
    pub master_key_salt: [u8; SALT_BYTES],
    /// Iterations for the digest of the master key, at least 1.
    pub master_key_iterations: u32,
    /// UUID as recorded, up to 40 bytes; not checked.
    pub uuid: Vec<u8>,
    /// The key slots.
    pub slots: [Slot; SLOTS],
}

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whether it holds a key.
    pub is_active: bool,
    /// Iterations for the key; at least 1 if active.
    pub iterations: u32,
    /// The salt of the passphrase.
    pub salt: [u8; SALT_BYTES],
    /// Anti-forensic stripes: 4000.
    pub stripes: u32,
    /// Where the key material lies.
    pub key_offset_bytes: u64,
}

impl LuksHeader {
    /// Reads and checks the first [`HEADER_BYTES`] of a volume; what lacks reads as zeros.
    ///
    /// # Errors
    /// What qemu-img finds first.
    pub fn parse(bytes: &[u8]) -> Result<Self, LuksError> {
        let mut header = [0; HEADER_BYTES];
        let length = bytes.len().min(HEADER_BYTES);
        header[..length].copy_from_slice(&bytes[..length]);
        Fields(&header).parse()
    }
}

/// The bytes of a header; all offsets of fields exist.
struct Fields<'a>(&'a [u8; HEADER_BYTES]);

impl Slot {
    /// Length of the key material for keys of `key_bytes`.
    #[must_use]
    pub fn material_bytes(&self, key_bytes: usize) -> usize {
        // 64 bytes and 4000 stripes at most.
        key_bytes.saturating_mul(usize::try_from(self.stripes).unwrap_or(usize::MAX))
    }
}

/// A slot as recorded.
struct RawSlot {
    state: u32,
    iterations: u32,
    salt: [u8; SALT_BYTES],
    start_sector: u32,
    stripes: u32,
}

impl Fields<'_> {
    fn u32(&self, offset: usize) -> u32 {
        be_u32(self.0, offset).unwrap_or(0)
    }

    /// A name of up to 31 bytes.
    fn name(&self, offset: usize, what: &'static str) -> Result<String, LuksError> {
        let field: [u8; 32] = array(self.0, offset).unwrap_or_default();
        let name = until_zero(&field);
        if name.len() == field.len() {
            return Err(LuksError::NotTerminated(what));
        }
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn parse(&self) -> Result<LuksHeader, LuksError> {
        if !self.0.starts_with(&MAGIC) {
            return Err(LuksError::NotLuks);
        }
        let version = be_u16(self.0, 6).unwrap_or(0);
        if version != 1 {
            return Err(LuksError::Version(version));
        }
        let cipher_name = self.name(8, "cipher name")?;
        let cipher_mode = self.name(40, "cipher mode")?;
        let hash_name = self.name(72, "hash spec")?;
        let payload_sector = self.u32(104);
        let key_bytes = self.u32(108);
        if payload_sector < ALIGNMENT_SECTORS {
            return Err(LuksError::PayloadInHeader);
        }
        let master_key_iterations = self.u32(164);
        if master_key_iterations == 0 {
            return Err(LuksError::NoMasterKeyIterations);
        }
        let slots = core::array::from_fn(|index| self.slot(index));
        check_slots(&slots, payload_sector, key_bytes)?;
        let (cipher, hash) = cipher::parse(&cipher_name, &cipher_mode, &hash_name, key_bytes)?;
        Ok(LuksHeader {
            cipher,
            hash,
            payload_offset_bytes: in_bytes(payload_sector),
            // No cipher has keys that are longer than 64 bytes.
            key_bytes: usize::try_from(key_bytes).unwrap_or(usize::MAX),
            master_key_digest: array(self.0, 112).unwrap_or_default(),
            master_key_salt: array(self.0, 132).unwrap_or_default(),
            master_key_iterations,
            uuid: until_zero(&self.0[168..208]).to_vec(),
            slots: slots.map(|slot| Slot {
                is_active: slot.state == SLOT_ENABLED,
                iterations: slot.iterations,
                salt: slot.salt,
                stripes: slot.stripes,
                key_offset_bytes: in_bytes(slot.start_sector),
            }),
        })
    }

    fn slot(&self, index: usize) -> RawSlot {
        let start = 208 + 48 * index;
        RawSlot {
            state: self.u32(start),
            iterations: self.u32(start + 4),
            salt: array(self.0, start + 8).unwrap_or_default(),
            start_sector: self.u32(start + 40),
            stripes: self.u32(start + 44),
        }
    }
}

fn in_bytes(sectors: u32) -> u64 {
    u64::from(sectors) * u64::from(SECTOR_BYTES)
}

fn check_slots(slots: &[RawSlot; SLOTS], payload_sector: u32, key_bytes: u32) -> Result<(), LuksError> {
    // Sector arithmetic is modulo 2^32, as in qemu-img: a header that relies on that is accepted there, too.
    let key_sectors = key_bytes.wrapping_mul(STRIPES).div_ceil(SECTOR_BYTES).next_multiple_of(ALIGNMENT_SECTORS);
    let end = |slot: &RawSlot| slot.start_sector.wrapping_add(key_sectors);
    for (index, slot) in slots.iter().enumerate() {
        if slot.stripes != STRIPES {
            return Err(LuksError::Stripes { index, stripes: slot.stripes });
        }
        if slot.state != SLOT_ENABLED && slot.state != SLOT_DISABLED {
            return Err(LuksError::SlotState(index));
        }
        if slot.state == SLOT_ENABLED && slot.iterations == 0 {
            return Err(LuksError::NoSlotIterations(index));
        }
        if slot.start_sector < ALIGNMENT_SECTORS {
            return Err(LuksError::SlotInHeader(index));
        }
        if end(slot) > payload_sector {
            return Err(LuksError::SlotInPayload(index));
        }
        for (other_index, other) in slots.iter().enumerate().skip(index + 1) {
            if slot.start_sector < end(other) && other.start_sector < end(slot) {
                return Err(LuksError::SlotsOverlap(index, other_index));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
