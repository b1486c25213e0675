//! The names in a LUKS header that say how data is encrypted. Nothing is encrypted or decrypted here.

use alloc::format;
use alloc::string::{String, ToString};

use super::error::LuksError;

/// A cipher with everything that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cipher {
    /// Cipher and key length in bits, such as `aes-256`.
    pub algorithm: String,
    /// `ecb`, `cbc`, `xts` or `ctr`.
    pub mode: &'static str,
    /// `plain`, `plain64` or `essiv`.
    pub iv_generator: &'static str,
    /// The hash of `essiv`.
    pub iv_hash: Option<&'static str>,
}

/// A cipher family: recorded name, name in messages about essiv, key lengths in bytes.
struct Family {
    name: &'static str,
    essiv_name: Option<&'static str>,
    key_bytes: &'static [u32],
}

const FAMILIES: [Family; 4] = [
    Family { name: "aes", essiv_name: Some("AES"), key_bytes: &[16, 24, 32] },
    Family { name: "cast5", essiv_name: None, key_bytes: &[16] },
    Family { name: "serpent", essiv_name: Some("Serpent"), key_bytes: &[16, 24, 32] },
    Family { name: "twofish", essiv_name: Some("Twofish"), key_bytes: &[16, 24, 32] },
];
const MODES: [&str; 4] = ["ecb", "cbc", "xts", "ctr"];
/// Name and digest length in bytes.
const HASHES: [(&str, u32); 8] = [
    ("md5", 16),
    ("sha1", 20),
    ("sha224", 28),
    ("sha256", 32),
    ("sha384", 48),
    ("sha512", 64),
    ("ripemd160", 20),
    ("sm3", 32),
];

/// Makes sense of the recorded names, such as `aes`, `xts-plain64` and `sha256`: the cipher, and the hash for keys.
pub(super) fn parse(
    cipher_name: &str,
    mode_text: &str,
    hash_name: &str,
    key_bytes: u32,
) -> Result<(Cipher, &'static str), LuksError> {
    let (mode_name, generator) =
        mode_text.split_once('-').ok_or_else(|| LuksError::ModeFormat(mode_text.to_string()))?;
    let (generator, iv_hash) = match generator.split_once(':') {
        Some((generator, hash_name)) => (generator, Some(find_hash(hash_name)?)),
        None => (generator, None),
    };
    let mode = find(&MODES, mode_name).ok_or_else(|| LuksError::Mode(mode_name.to_string()))?;
    // XTS takes two keys of the same length.
    let key_bytes = if mode == "xts" { key_bytes / 2 } else { key_bytes };
    let family = FAMILIES
        .iter()
        .find(|family| family.name == cipher_name && family.key_bytes.contains(&key_bytes))
        .ok_or_else(|| LuksError::Algorithm { name: cipher_name.to_string(), key_bytes })?;
    let algorithm = format!("{}-{}", family.name, key_bytes * 8);
    let (hash, _) = find_hash(hash_name)?;
    let iv_generator =
        find(&["plain", "plain64", "essiv"], generator).ok_or_else(|| LuksError::IvGenerator(generator.to_string()))?;
    let iv_hash = if iv_generator == "essiv" {
        let (name, digest_bytes) = iv_hash.ok_or(LuksError::IvHashMissing)?;
        check_essiv(family, &algorithm, digest_bytes)?;
        Some(name)
    } else {
        None
    };
    Ok((Cipher { algorithm, mode, iv_generator, iv_hash }, hash))
}

/// The digest of the key must be a key of the same family.
fn check_essiv(family: &Family, algorithm: &str, digest_bytes: u32) -> Result<(), LuksError> {
    match family.essiv_name {
        _ if family.key_bytes.contains(&digest_bytes) => Ok(()),
        Some(family) => Err(LuksError::EssivKey { family, key_bytes: digest_bytes }),
        None => Err(LuksError::EssivCipher(algorithm.to_string())),
    }
}

fn find_hash(name: &str) -> Result<(&'static str, u32), LuksError> {
    HASHES.iter().find(|hash| hash.0 == name).copied().ok_or_else(|| LuksError::Hash(name.to_string()))
}

fn find(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().find(|known| **known == name).copied()
}
