//! Encrypted images, and jobs that have what opens them.
#![allow(clippy::cast_possible_truncation, reason = "images are small here")]

use instar_abi::job::{SECRETS_OFFSET, SecretEntry, SecretsHeader};
use instar_abi::wire::Wire;
use instar_formats::qcow2::{Access, CryptMethod, CryptoHeaderPointer, Header, encode_first_cluster, refcount};

use crate::maker::{KEY_BYTES, PAYLOAD, encrypt, luks_header};

/// What opens the images made here.
pub(crate) const SECRET: &[u8] = b"a secret";

/// Gives a qcow2 image that `support::empty_image` made a LUKS header, behind everything else.
pub(crate) fn encrypted(mut image: Vec<u8>, key: &[u8; KEY_BYTES]) -> Vec<u8> {
    let luks = luks_header(SECRET, key);
    let mut header = Header::parse(&image, Access::Inspect).unwrap();
    let size = header.cluster_size_bytes() as usize;
    let first = image.len() / size;
    header.crypt_method = CryptMethod::Luks;
    let pointer = CryptoHeaderPointer { offset: image.len() as u64, length_bytes: luks.len() as u64 };
    header.extensions.crypto_header = Some(pointer);
    image[..size].copy_from_slice(&encode_first_cluster(&header).unwrap()[..size]);
    for cluster in first..first + luks.len().div_ceil(size) {
        refcount::write(&mut image[2 * size..], header.refcount_order, cluster, 1);
    }
    image.extend(luks);
    image.resize(image.len().next_multiple_of(size), 0);
    image
}

/// A LUKS volume of zeros.
pub(crate) fn volume(size_bytes: u64, key: &[u8; KEY_BYTES]) -> Vec<u8> {
    let mut bytes = luks_header(SECRET, key);
    bytes.resize(PAYLOAD + size_bytes as usize, 0);
    encrypt(key, 0, &mut bytes[PAYLOAD..]);
    bytes
}

/// Gives a job of two layers a secret for each.
pub(crate) fn with_secret(mut job: Vec<u8>, secret: &[u8]) -> Vec<u8> {
    job.resize(SECRETS_OFFSET, 0);
    job.extend([0; SecretsHeader::SIZE_BYTES]);
    SecretsHeader { count: 2, reserved: 0 }.put(&mut job[SECRETS_OFFSET..]);
    for layer in 0..2 {
        let start = job.len();
        job.extend([0; SecretEntry::SIZE_BYTES]);
        SecretEntry { layer, length_bytes: u32::try_from(secret.len()).unwrap() }.put(&mut job[start..]);
        job.extend_from_slice(secret);
    }
    job
}
