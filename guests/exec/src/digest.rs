//! Digests of what a disk shows, part by part: how two sandboxes that know nothing of each other say the same of it.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::{DigestItem, MAX_DIGESTS};
use instar_abi::wire::Wire;
use instar_plan::extent::{Extent, Source};
use sha2::{Digest, Sha256};

use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::reader::{BUFFER_BYTES, Reader};
use crate::storage::Storage;

/// The smallest part with a digest of its own.
pub(crate) const PART_BYTES_MIN: u64 = 1 << 20;
/// Blocks of zeros count for nothing, so that it does not matter how zeros are stored.
const BLOCK_BYTES: usize = 4096;

/// Digests parts of a disk, one after the other.
pub(crate) struct Digests {
    reader: Reader,
    buffer: Vec<u8>,
    parts: Parts,
}

impl Digests {
    /// For a disk of `size_bytes`.
    pub(crate) fn new(job: &Job<'_>, size_bytes: u64) -> Self {
        Self { reader: Reader::new(job), buffer: vec![0; to_index(BUFFER_BYTES)], parts: Parts::new(size_bytes) }
    }

    /// Adds what `extents` show; they have no gaps and follow those that were added before.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    pub(crate) fn add(&mut self, storage: &mut dyn Storage, extents: &[Extent]) -> Result<()> {
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(()) };
        let mut start = first.guest_offset;
        while start < last.end() {
            // Pieces end where parts do.
            let end = (start / BUFFER_BYTES * BUFFER_BYTES + BUFFER_BYTES).min(last.end());
            let piece: Vec<Extent> = extents.iter().filter_map(|extent| extent.clipped(start, end)).collect();
            self.parts.go_to(start);
            if piece.iter().any(|extent| extent.source != Source::Zero) {
                let bytes = &mut self.buffer[..to_index(end - start)];
                self.reader.fill(storage, &piece, bytes)?;
                self.parts.take(start, bytes);
            }
            start = end;
        }
        Ok(())
    }

    /// All digests, as [`DigestItem`]s.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.parts.finish()
    }
}

/// The digests so far, and the one that is being made.
struct Parts {
    part_bytes: u64,
    size_bytes: u64,
    /// Number of the part that is being digested.
    current: Option<(u64, Sha256)>,
    payload: Vec<u8>,
}

impl Parts {
    fn new(size_bytes: u64) -> Self {
        let mut part_bytes = PART_BYTES_MIN;
        while size_bytes.div_ceil(part_bytes) > MAX_DIGESTS {
            part_bytes <<= 1;
        }
        Self { part_bytes, size_bytes, current: None, payload: Vec::new() }
    }

    fn go_to(&mut self, offset: u64) {
        let part = offset / self.part_bytes;
        if self.current.as_ref().is_none_or(|(current, _)| *current != part) {
            self.close();
            self.current = Some((part, Sha256::new()));
        }
    }

    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let Some((_, digest)) = &mut self.current else { return };
        for (index, block) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            if block.iter().fold(0, |sum, byte| sum | byte) != 0 {
                digest.update((offset + index * BLOCK_BYTES as u64).to_le_bytes());
                digest.update(block);
            }
        }
    }

    fn close(&mut self) {
        let Some((part, digest)) = self.current.take() else { return };
        let guest_offset = part * self.part_bytes;
        let length_bytes = self.part_bytes.min(self.size_bytes - guest_offset);
        let item = DigestItem { guest_offset, length_bytes, digest: digest.finalize().into() };
        let end = self.payload.len();
        self.payload.resize(end + DigestItem::SIZE_BYTES, 0);
        item.put(&mut self.payload[end..]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(size_bytes: u64, pieces: &[(u64, &[u8])]) -> Vec<DigestItem> {
        let mut parts = Parts::new(size_bytes);
        for (offset, bytes) in pieces {
            parts.go_to(*offset);
            parts.take(*offset, bytes);
        }
        parts.finish().chunks_exact(DigestItem::SIZE_BYTES).map(DigestItem::get).collect()
    }

    #[test]
    fn zeros_count_for_nothing_and_places_do() {
        let mut block = vec![0; 2 * BLOCK_BYTES];
        block[BLOCK_BYTES] = 1;
        let whole = digests(3 << 20, &[(0, &block)]);
        assert_eq!(whole, digests(3 << 20, &[(4096, &block[BLOCK_BYTES..])]));
        assert_ne!(whole, digests(3 << 20, &[(8192, &block[BLOCK_BYTES..])]));
        assert_eq!(digests(3 << 20, &[(0, &[0; 8192])])[0].digest, digests(3 << 20, &[(0, &[])])[0].digest);
    }

    #[test]
    fn a_large_disk_has_longer_parts() {
        let places = |size| {
            digests(size, &[(0, &[1]), (5 << 20, &[1])]).iter().map(|item| item.guest_offset).collect::<Vec<_>>()
        };
        assert_eq!(places(6 << 20), [0, 5 << 20]);
        assert_eq!(places(16 << 40), [0]);
        assert_eq!(digests((5 << 20) + 7, &[(5 << 20, &[1])])[0].length_bytes, 7);
    }
}
