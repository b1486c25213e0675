//! What can be wrong with a LUKS header, in the words that users of this kind of tool know.

use alloc::string::String;
use core::fmt;

/// A LUKS header that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LuksError {
    /// Another magic.
    NotLuks,
    /// A version other than 1.
    Version(u16),
    /// A name that fills its field.
    NotTerminated(&'static str),
    /// Encrypted data inside the header.
    PayloadInHeader,
    /// 0 iterations for the master key.
    NoMasterKeyIterations,
    /// A slot without 4000 stripes.
    Stripes {
        /// Number of the slot.
        index: usize,
        /// Its stripes.
        stripes: u32,
    },
    /// A slot that is neither enabled nor disabled.
    SlotState(usize),
    /// 0 iterations for a key.
    NoSlotIterations(usize),
    /// Key material inside the header.
    SlotInHeader(usize),
    /// Key material inside the encrypted data.
    SlotInPayload(usize),
    /// Key material of two slots in the same place.
    SlotsOverlap(usize, usize),
    /// A cipher mode without a generator of initialisation vectors.
    ModeFormat(String),
    /// An unknown hash.
    Hash(String),
    /// An unknown cipher mode.
    Mode(String),
    /// An unknown cipher, or one that has no keys of this length.
    Algorithm {
        /// The cipher.
        name: String,
        /// Length of its key.
        key_bytes: u32,
    },
    /// An unknown generator of initialisation vectors.
    IvGenerator(String),
    /// The generator needs a hash.
    IvHashMissing,
    /// No cipher of this family takes a digest of that length as key.
    EssivKey {
        /// The family of ciphers.
        family: &'static str,
        /// Length of the digest.
        key_bytes: u32,
    },
    /// A cipher that cannot be used for that.
    EssivCipher(String),
}

impl fmt::Display for LuksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLuks => f.write_str("Volume is not in LUKS format"),
            Self::Version(version) => write!(f, "LUKS version {version} is not supported"),
            Self::NotTerminated(field) => write!(f, "LUKS header {field} is not NUL terminated"),
            Self::PayloadInHeader => f.write_str("LUKS payload is overlapping with the header"),
            Self::NoMasterKeyIterations => f.write_str("LUKS key iteration count is zero"),
            Self::Stripes { index, stripes } => {
                write!(f, "Keyslot {index} is corrupted (stripes {stripes} != 4000)")
            }
            Self::SlotState(index) => write!(f, "Keyslot {index} state (active/disable) is corrupted"),
            Self::NoSlotIterations(index) => write!(f, "Keyslot {index} iteration count is zero"),
            Self::SlotInHeader(index) => write!(f, "Keyslot {index} is overlapping with the LUKS header"),
            Self::SlotInPayload(index) => write!(f, "Keyslot {index} is overlapping with the encrypted payload"),
            Self::SlotsOverlap(one, other) => write!(f, "Keyslots {one} and {other} are overlapping in the header"),
            Self::ModeFormat(mode) => write!(f, "Unexpected cipher mode string format '{mode}'"),
            Self::Hash(name) => write!(f, "Hash algorithm '{name}' not supported"),
            Self::Mode(name) => write!(f, "Cipher mode '{name}' not supported"),
            Self::Algorithm { name, key_bytes } => {
                write!(f, "Algorithm '{name}' with key size {key_bytes} bytes not supported")
            }
            Self::IvGenerator(name) => write!(f, "IV generator '{name}' not supported"),
            Self::IvHashMissing => f.write_str("Missing IV generator hash specification"),
            Self::EssivKey { family, key_bytes } => {
                write!(f, "No {family} cipher with key size {key_bytes} available")
            }
            Self::EssivCipher(name) => write!(f, "Cipher {name} not supported with essiv"),
        }
    }
}

impl core::error::Error for LuksError {}
