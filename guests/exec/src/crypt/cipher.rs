//! Encrypts and decrypts sectors with the cipher that a LUKS header names.
//!
//! Sources: LUKS On-Disk Format Specification 1.2.3, "Registry of cipher names, modes and hash specifications"; IEEE 1619
//! for XTS. The ciphers themselves come from libraries.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};
use instar_formats::luks::{Cipher, SECTOR_BYTES};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Length of a sector in bytes: what is encrypted by itself.
pub(super) const SECTOR: usize = SECTOR_BYTES as usize;
/// Length of the ciphers' block, and of an initialisation vector, in bytes.
const BLOCK: usize = 16;

/// A cipher with its key, for whole sectors. Keys are wiped when it goes.
pub(super) struct SectorCipher {
    mode: Box<dyn Mode>,
    vectors: Vectors,
}

/// Where the initialisation vector of a sector comes from.
enum Vectors {
    /// The low 32 bits of the sector's number.
    Plain,
    /// The sector's number.
    Plain64,
    /// The sector's number, encrypted with a digest of the key.
    Essiv(Box<Aes256>),
}

/// A cipher in a mode of operation.
trait Mode {
    fn encrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]);
    fn decrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]);
}

impl SectorCipher {
    /// The cipher that a header names, with a key of the length that the header names too.
    ///
    /// # Errors
    /// The name of what is not supported.
    pub(super) fn new(cipher: &Cipher, key: &[u8]) -> Result<Self, String> {
        let built = match cipher.algorithm.as_str() {
            "aes-128" => mode::<Aes128>(cipher.mode, key),
            "aes-192" => mode::<Aes192>(cipher.mode, key),
            "aes-256" => mode::<Aes256>(cipher.mode, key),
            other => return Err(format!("Algorithm '{other}' not supported")),
        };
        let mode = built.ok_or_else(|| format!("Cipher mode '{}' not supported", cipher.mode))?;
        let vectors = match (cipher.iv_generator, cipher.iv_hash) {
            ("plain", _) => Vectors::Plain,
            ("plain64", _) => Vectors::Plain64,
            (_, Some("sha256")) => {
                let mut salt = Sha256::digest(key);
                let key = Zeroizing::new(<[u8; 32]>::from(salt));
                salt.fill(0);
                Vectors::Essiv(Box::new(Aes256::new((&*key).into())))
            }
            (_, hash) => return Err(format!("IV generator hash '{}' not supported", hash.unwrap_or_default())),
        };
        Ok(Self { mode, vectors })
    }

    /// Encrypts `bytes`, the first of which belongs to `sector`; the last sector may be cut short, to whole blocks.
    pub(super) fn encrypt(&self, sector: u64, bytes: &mut [u8]) {
        for (number, piece) in (sector..).zip(bytes.chunks_mut(SECTOR)) {
            self.mode.encrypt(self.vectors.of(number), piece);
        }
    }

    /// Decrypts what [`SectorCipher::encrypt`] encrypts.
    pub(super) fn decrypt(&self, sector: u64, bytes: &mut [u8]) {
        for (number, piece) in (sector..).zip(bytes.chunks_mut(SECTOR)) {
            self.mode.decrypt(self.vectors.of(number), piece);
        }
    }
}

impl Vectors {
    fn of(&self, sector: u64) -> [u8; BLOCK] {
        let mut vector = [0; BLOCK];
        vector[..8].copy_from_slice(&sector.to_le_bytes());
        match self {
            Self::Plain => vector[4..8].fill(0),
            Self::Plain64 => {}
            Self::Essiv(cipher) => cipher.encrypt_block((&mut vector).into()),
        }
        vector
    }
}

fn mode<C>(name: &str, key: &[u8]) -> Option<Box<dyn Mode>>
where
    C: KeyInit + BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16> + BlockCipherDecrypt + 'static,
{
    match name {
        "xts" => {
            let (data, tweak) = key.split_at(key.len() / 2);
            Some(Box::new(Xts { data: C::new_from_slice(data).ok()?, tweak: C::new_from_slice(tweak).ok()? }))
        }
        "cbc" => Some(Box::new(Cbc(C::new_from_slice(key).ok()?))),
        _ => None,
    }
}

/// XTS (IEEE 1619) without ciphertext stealing. Libraries encrypt block by block; all blocks of a sector at once take half
/// the time, and whole disks go through here.
struct Xts<C> {
    data: C,
    tweak: C,
}

impl<C> Xts<C>
where
    C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>,
{
    /// Hands the blocks of a sector to `crypt`, between two additions of their tweaks.
    fn with_tweaks(&self, mut vector: [u8; BLOCK], sector: &mut [u8], crypt: impl Fn(&C, &mut [Block])) {
        self.tweak.encrypt_block((&mut vector).into());
        let mut tweaks = [0u128; SECTOR / BLOCK];
        let mut tweak = u128::from_le_bytes(vector);
        for place in &mut tweaks {
            *place = tweak;
            // Times x in the field of 2^128 elements.
            tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
        }
        let (blocks, _) = sector.as_chunks_mut();
        let add = |blocks: &mut [[u8; BLOCK]]| {
            for (block, tweak) in blocks.iter_mut().zip(&tweaks) {
                *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
            }
        };
        add(blocks);
        crypt(&self.data, Block::cast_slice_from_core_mut(blocks));
        add(blocks);
    }
}

impl<C> Mode for Xts<C>
where
    C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16> + BlockCipherDecrypt,
{
    fn encrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        self.with_tweaks(vector, sector, |cipher, blocks| cipher.encrypt_blocks(blocks));
    }

    fn decrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        self.with_tweaks(vector, sector, |cipher, blocks| cipher.decrypt_blocks(blocks));
    }
}

/// Cipher block chaining, started anew with every sector.
struct Cbc<C>(C);

impl<C> Mode for Cbc<C>
where
    C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16> + BlockCipherDecrypt,
{
    fn encrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        let mut chain = cbc::Encryptor::inner_iv_init(&self.0, (&vector).into());
        chain.encrypt_blocks(Block::cast_slice_from_core_mut(sector.as_chunks_mut().0));
    }

    fn decrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        let mut chain = cbc::Decryptor::inner_iv_init(&self.0, (&vector).into());
        chain.decrypt_blocks(Block::cast_slice_from_core_mut(sector.as_chunks_mut().0));
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "numbers in tests are small")]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn cipher(algorithm: &str, mode: &'static str, iv_generator: &'static str, key: &[u8]) -> SectorCipher {
        let iv_hash = (iv_generator == "essiv").then_some("sha256");
        SectorCipher::new(&Cipher { algorithm: algorithm.to_string(), mode, iv_generator, iv_hash }, key).unwrap()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// IEEE 1619-2007, annex B, vectors 2 and 10 (the first block of the latter).
    #[test]
    fn xts_encrypts_as_published() {
        let mut data = [0x44; 32];
        let key = [[0x11; 16], [0x22; 16]].concat();
        cipher("aes-128", "xts", "plain64", &key).encrypt(0x33_3333_3333, &mut data);
        assert_eq!(data[..], bytes("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"));
        let key = bytes(
            "2718281828459045235360287471352662497757247093699959574966967627\
             3141592653589793238462643383279502884197169399375105820974944592",
        );
        let mut data: Vec<u8> = (0..512u32).map(|index| index as u8).collect();
        cipher("aes-256", "xts", "plain64", &key).encrypt(0xff, &mut data);
        assert_eq!(data[..16], bytes("1c3b3a102f770386e4836c99e370cf9b"));
    }

    #[test]
    fn every_cipher_decrypts_what_it_encrypts_and_sectors_differ() {
        for (algorithm, key_bytes) in [("aes-128", 16), ("aes-192", 24), ("aes-256", 32)] {
            for mode in ["xts", "cbc"] {
                for generator in ["plain", "plain64", "essiv"] {
                    let key: Vec<u8> = (0..if mode == "xts" { 2 * key_bytes } else { key_bytes }).collect();
                    let cipher = cipher(algorithm, mode, generator, &key);
                    let mut data = [7; 3 * SECTOR + 64];
                    cipher.encrypt(9, &mut data);
                    assert_ne!(data[..64], data[SECTOR..SECTOR + 64]);
                    let mut second = data[SECTOR..2 * SECTOR].to_vec();
                    cipher.decrypt(10, &mut second);
                    assert_eq!(second, [7; SECTOR]);
                    cipher.decrypt(9, &mut data);
                    assert_eq!(data, [7; 3 * SECTOR + 64], "{algorithm} {mode} {generator}");
                }
            }
        }
    }

    #[test]
    fn plain_vectors_end_at_32_bits() {
        let encrypted = |generator, sector| {
            let mut data = [0; SECTOR];
            cipher("aes-128", "cbc", generator, &[1; 16]).encrypt(sector, &mut data);
            data
        };
        assert_eq!(encrypted("plain", 5), encrypted("plain", (1 << 32) + 5));
        assert_ne!(encrypted("plain64", 5), encrypted("plain64", (1 << 32) + 5));
    }
}
