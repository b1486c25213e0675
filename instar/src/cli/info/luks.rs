//! The LUKS header of an encrypted image, as reported.

use instar_abi::report::{LUKS_SLOTS, LuksItem, LuksSlotItem};
use instar_abi::wire::Wire;

/// A LUKS header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Luks {
    /// Cipher and key length, such as `aes-256`.
    pub cipher_alg: Vec<u8>,
    /// Mode, such as `xts`.
    pub cipher_mode: Vec<u8>,
    /// Generator of initialisation vectors, such as `plain64`.
    pub ivgen_alg: Vec<u8>,
    /// Its hash, where it has one.
    pub ivgen_hash_alg: Option<Vec<u8>>,
    /// Hash for keys and digests.
    pub hash_alg: Vec<u8>,
    /// The volume's UUID as recorded.
    pub uuid: Vec<u8>,
    /// Where the encrypted data begins, relative to the header.
    pub payload_offset_bytes: u64,
    /// Iterations for the digest of the master key.
    pub master_key_iterations: u32,
    /// All key slots.
    pub slots: Vec<Slot>,
}

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the key material lies, relative to the header.
    pub key_offset_bytes: u64,
    /// Iterations and stripes, if the slot holds a key.
    pub key: Option<(u32, u32)>,
}

impl Luks {
    /// Reads a payload item; `None` if its length is wrong.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let (head, slots) = data.split_at_checked(LuksItem::SIZE_BYTES)?;
        if slots.len() != LUKS_SLOTS * LuksSlotItem::SIZE_BYTES {
            return None;
        }
        let item = LuksItem::get(head);
        Some(Self {
            cipher_alg: name(&item.cipher_alg),
            cipher_mode: name(&item.cipher_mode),
            ivgen_alg: name(&item.ivgen_alg),
            ivgen_hash_alg: Some(name(&item.ivgen_hash_alg)).filter(|name| !name.is_empty()),
            hash_alg: name(&item.hash_alg),
            uuid: name(&item.uuid),
            payload_offset_bytes: item.payload_offset_bytes,
            master_key_iterations: item.master_key_iterations,
            slots: slots
                .chunks_exact(LuksSlotItem::SIZE_BYTES)
                .map(|slot| Slot::new(&LuksSlotItem::get(slot)))
                .collect(),
        })
    }
}

impl Slot {
    fn new(item: &LuksSlotItem) -> Self {
        let key = (item.is_active != 0).then_some((item.iterations, item.stripes));
        Self { key_offset_bytes: item.key_offset_bytes, key }
    }
}

fn name(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|&byte| byte != 0).collect()
}
