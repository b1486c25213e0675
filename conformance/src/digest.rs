//! The content digest of the recordings: SHA-256 over every 64 KiB block of the virtual disk that is not all zero, each as its
//! block index (8 bytes, little-endian) and its 65,536 bytes, then the virtual size (8 bytes, little-endian).

use crate::image::{Chain, ImageError, Kind, MAX_PIECES};
use sha2::{Digest, Sha256};

/// Bytes of one block.
pub const BLOCK: u64 = 65536;

/// Collects blocks in order.
pub struct ContentDigest {
    sha: Sha256,
}

impl Default for ContentDigest {
    fn default() -> Self {
        Self { sha: Sha256::new() }
    }
}

impl ContentDigest {
    /// Adds the block with this index; blocks of zeros leave no trace.
    pub fn block(&mut self, index: u64, bytes: &[u8]) {
        if bytes.iter().any(|byte| *byte != 0) {
            self.sha.update(index.to_le_bytes());
            self.sha.update(bytes);
        }
    }

    /// The digest in hexadecimal.
    pub fn finish(mut self, virtual_size: u64) -> String {
        self.sha.update(virtual_size.to_le_bytes());
        hex(&self.sha.finalize())
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a byte string in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Digest of what a guest reads through `chain`.
pub fn of_chain(chain: &Chain) -> Result<String, ImageError> {
    let size = chain.virtual_size();
    let mut digest = ContentDigest::default();
    let mut index = 0;
    let mut steps = 0;
    while index < size.div_ceil(BLOCK) {
        steps += 1;
        if steps > MAX_PIECES {
            return Err(ImageError(format!("more than {MAX_PIECES} pieces")));
        }
        let start = index * BLOCK;
        let piece = chain.piece_at(start)?;
        if piece.kind != Kind::Data && piece.length >= BLOCK {
            index += piece.length / BLOCK;
            continue;
        }
        let mut block = vec![0; usize::try_from(BLOCK).expect("64 KiB fit")];
        let count = usize::try_from(BLOCK.min(size - start)).expect("64 KiB fit");
        chain.read(start, &mut block[..count])?;
        digest.block(index, &block);
        index += 1;
    }
    Ok(digest.finish(size))
}
