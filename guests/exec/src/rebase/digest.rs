//! Digests of what the overlay shows, wherever that could depend on which chain lies below it. What the old chain shows and
//! what the new one shows afterwards have the same digests, or the rebase has changed the disk.
//!
//! Does not see: parts of the disk where both chains show the same by metadata alone. There only the overlay's own clusters
//! count, and that nothing else was put into these says the census, which is taken anew.

use alloc::vec::Vec;

use instar_plan::extent;

use super::chains::Chains;
use super::order::{Order, Step};
use super::overlay::Overlay;
use crate::digest::{Digests, PART_BYTES_MIN};
use crate::job::Job;
use crate::layer::Result;
use crate::open::open_layer;
use crate::storage::Storage;

/// What the overlay shows over the chain that the order's step names, as [`instar_abi::report::DigestItem`]s. Nothing is written.
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
    // What the overlay receives is whole clusters.
    let window_bytes = overlay.cluster_size_bytes().next_power_of_two().max(PART_BYTES_MIN);
    let mut digests = Digests::new(job, size_bytes);
    let mut next = 0;
    loop {
        next = chains.next_difference(next);
        if next >= size_bytes {
            return Ok(digests.finish());
        }
        let start = next / window_bytes * window_bytes;
        let end = start.saturating_add(window_bytes).min(size_bytes);
        next = end;
        let Some(views) = chains.views(storage, start, end)? else { continue };
        let mut own = Vec::new();
        overlay.map(storage, start, end, &mut own)?;
        digests.add(storage, &extent::overlay_onto(&own, if is_new { &views.new } else { &views.old }))?;
    }
}
