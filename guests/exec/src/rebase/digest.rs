//! Digests of what the overlay shows, wherever that could depend on which chain lies below it. What the old chain shows and
//! what the new one shows afterwards have the same digests, or the rebase has changed the disk.
//!
//! Does not see: parts of the disk where both chains show the same by metadata alone. There only the overlay's own clusters
//! count, and that nothing else was put into these says the census, which is taken anew.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::{DigestItem, MAX_DIGESTS};
use instar_abi::wire::Wire;
use instar_plan::extent::{self, Source};
use sha2::{Digest, Sha256};

use super::chains::Chains;
use super::order::{Order, Step};
use super::overlay::Overlay;
use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::open::open_layer;
use crate::reader::Reader;
use crate::storage::Storage;

/// How much is read together, and the smallest part with a digest of its own.
const WINDOW_BYTES: u64 = 1 << 20;
/// Blocks of zeros count for nothing, so that it does not matter how zeros are stored.
const BLOCK_BYTES: usize = 4096;

/// What the overlay shows over the chain that the order's step names, as [`DigestItem`]s. Nothing is written.
///
/// # Errors
/// If an image cannot be read; after copying, also if the overlay's metadata could not be written by.
pub(super) fn of_overlay(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<Vec<u8>> {
    let is_new = order.step == Step::DigestNew;
    if is_new {
        // Opening it for writing checks all refcounts against what is in use.
        drop(Overlay::open(storage, job, order)?);
    }
    let mut overlay = open_layer(storage, job, 0)?;
    let mut chains = Chains::open(storage, job, order)?;
    let size_bytes = overlay.size_bytes();
    let mut parts = Parts::new(size_bytes);
    let mut reader = Reader::new(job);
    let mut bytes = vec![0; to_index(WINDOW_BYTES)];
    let mut next = 0;
    loop {
        next = chains.next_difference(next);
        if next >= size_bytes {
            return Ok(parts.finish());
        }
        let start = next / WINDOW_BYTES * WINDOW_BYTES;
        let end = (start + WINDOW_BYTES).min(size_bytes);
        next = end;
        let Some(views) = chains.views(storage, start, end)? else { continue };
        let mut own = Vec::new();
        overlay.map(storage, start, end, &mut own)?;
        let shown = extent::overlay_onto(&own, if is_new { &views.new } else { &views.old });
        parts.go_to(start);
        if shown.iter().any(|extent| extent.source != Source::Zero) {
            let bytes = &mut bytes[..to_index(end - start)];
            reader.fill(storage, &shown, bytes)?;
            parts.take(start, bytes);
        }
    }
}

/// The parts of the disk, one after the other.
struct Parts {
    part_bytes: u64,
    size_bytes: u64,
    /// Number of the part that is being digested.
    current: Option<(u64, Sha256)>,
    payload: Vec<u8>,
}

impl Parts {
    fn new(size_bytes: u64) -> Self {
        let mut part_bytes = WINDOW_BYTES;
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
