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
use xts_mode::Xts128;
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
            Some(Box::new(Xts128::new(C::new_from_slice(data).ok()?, C::new_from_slice(tweak).ok()?)))
        }
        "cbc" => Some(Box::new(Cbc(C::new_from_slice(key).ok()?))),
        _ => None,
    }
}

impl<C> Mode for Xts128<C>
where
    C: KeyInit + BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16> + BlockCipherDecrypt,
{
    fn encrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        self.encrypt_sector(sector, vector.into());
    }

    fn decrypt(&self, vector: [u8; BLOCK], sector: &mut [u8]) {
        self.decrypt_sector(sector, vector.into());
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
