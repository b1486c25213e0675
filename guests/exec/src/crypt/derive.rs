//! Derives keys: from passphrases (PBKDF2, RFC 8018 section 5.2) and from key material in stripes (LUKS On-Disk Format
//! Specification 1.2.3, "Anti-forensic splitting").

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use crate::layer::Result;

/// After this many iterations the host hears that the sandbox is alive; they take a fraction of a second.
const ITERATIONS_PER_SIGN_OF_LIFE: u32 = 1 << 18;

/// A hash that keys are derived with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// The hash with the name that headers record.
    pub(super) fn named(name: &str) -> Option<Self> {
        let known = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];
        known
            .into_iter()
            .zip(["sha1", "sha224", "sha256", "sha384", "sha512"])
            .find(|(_, own)| *own == name)
            .map(|(h, _)| h)
    }

    /// Length of a digest in bytes.
    pub(super) fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Fills `key` with PBKDF2 over HMAC. `alive` is called every now and then.
    ///
    /// # Errors
    /// What `alive` says.
    pub(super) fn stretch(
        self,
        passphrase: &[u8],
        salt: &[u8],
        iterations: u32,
        key: &mut [u8],
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Sha1 => pbkdf2::<Hmac<Sha1>>(passphrase, salt, iterations, key, alive),
            Self::Sha224 => pbkdf2::<Hmac<Sha224>>(passphrase, salt, iterations, key, alive),
            Self::Sha256 => pbkdf2::<Hmac<Sha256>>(passphrase, salt, iterations, key, alive),
            Self::Sha384 => pbkdf2::<Hmac<Sha384>>(passphrase, salt, iterations, key, alive),
            Self::Sha512 => pbkdf2::<Hmac<Sha512>>(passphrase, salt, iterations, key, alive),
        }
    }

    /// Fills `key` with what was split into the stripes of `material`.
    pub(super) fn merge_stripes(self, material: &[u8], key: &mut [u8]) {
        match self {
            Self::Sha1 => merge::<Sha1>(material, key),
            Self::Sha224 => merge::<Sha224>(material, key),
            Self::Sha256 => merge::<Sha256>(material, key),
            Self::Sha384 => merge::<Sha384>(material, key),
            Self::Sha512 => merge::<Sha512>(material, key),
        }
    }
}

/// The libraries' own function cannot be interrupted, and the host stops a sandbox that it does not hear of.
fn pbkdf2<M: Mac + KeyInit + Clone>(
    passphrase: &[u8],
    salt: &[u8],
    iterations: u32,
    key: &mut [u8],
    alive: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let keyed = <M as KeyInit>::new_from_slice(passphrase).expect("HMAC takes keys of any length");
    for (number, block) in (1u32..).zip(key.chunks_mut(M::output_size())) {
        let mut last = keyed.clone().chain_update(salt).chain_update(number.to_be_bytes()).finalize().into_bytes();
        block.copy_from_slice(&last[..block.len()]);
        for iteration in 1..iterations {
            last = keyed.clone().chain_update(&last).finalize().into_bytes();
            xor(block, &last);
            if iteration.is_multiple_of(ITERATIONS_PER_SIGN_OF_LIFE) {
                alive()?;
            }
        }
        last.as_mut_slice().zeroize();
    }
    Ok(())
}

fn merge<D: Digest>(material: &[u8], key: &mut [u8]) {
    key.fill(0);
    let mut stripes = material.chunks_exact(key.len()).peekable();
    while let Some(stripe) = stripes.next() {
        xor(key, stripe);
        if stripes.peek().is_some() {
            diffuse::<D>(key);
        }
    }
}

/// Replaces each piece of the length of a digest by its digest.
fn diffuse<D: Digest>(bytes: &mut [u8]) {
    for (number, piece) in (0u32..).zip(bytes.chunks_mut(<D as Digest>::output_size())) {
        let digest = D::new().chain_update(number.to_be_bytes()).chain_update(&*piece).finalize();
        piece.copy_from_slice(&digest[..piece.len()]);
    }
}

fn xor(bytes: &mut [u8], others: &[u8]) {
    for (byte, other) in bytes.iter_mut().zip(others) {
        *byte ^= other;
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "numbers in tests are small")]
mod tests {
    use super::*;
    use alloc::vec;

    fn stretched(hash: Hash, passphrase: &[u8], salt: &[u8], iterations: u32, length: usize) -> alloc::string::String {
        let mut key = vec![0; length];
        hash.stretch(passphrase, salt, iterations, &mut key, &mut || Ok(())).unwrap();
        key.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
    }

    /// RFC 6070; the one for SHA-256 is from RFC 7914, section 11.
    #[test]
    fn passphrases_are_stretched_as_published() {
        assert_eq!(stretched(Hash::Sha1, b"password", b"salt", 4096, 20), "4b007901b765489abead49d926f721d065a429c1");
        assert_eq!(
            stretched(Hash::Sha1, b"passwordPASSWORDpassword", b"saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096, 25),
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"
        );
        assert_eq!(
            stretched(Hash::Sha256, b"passwd", b"salt", 1, 64),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"
        );
    }

    #[test]
    fn the_host_hears_of_long_computations() {
        let mut signs = 0;
        let mut alive = || {
            signs += 1;
            Ok(())
        };
        let iterations = 2 * ITERATIONS_PER_SIGN_OF_LIFE + 1;
        Hash::Sha1.stretch(b"a", b"b", iterations, &mut [0; 20], &mut alive).unwrap();
        assert_eq!(signs, 2);
    }

    #[test]
    fn what_was_split_is_merged() {
        // Split as the specification has it: random stripes, the last one chosen so that all of them give the key.
        let key: [u8; 48] = core::array::from_fn(|index| index as u8);
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            let mut material: alloc::vec::Vec<u8> = (0..4 * 48u32).map(|index| (index * 7 + index / 3) as u8).collect();
            let mut merged = [0; 48];
            material.resize(5 * 48, 0);
            hash.merge_stripes(&material, &mut merged);
            xor(&mut material[4 * 48..], &merged);
            xor(&mut material[4 * 48..], &key);
            hash.merge_stripes(&material, &mut merged);
            assert_eq!(merged, key, "{hash:?}");
        }
    }
}
