//! The old and the new chain below the overlay, and what both show in a range.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_plan::extent::{self, Extent, Source};

use super::order::Order;
use crate::job::Job;
use crate::layer::{Layer, Result, map_chain, map_stack};
use crate::open::open_layers;
use crate::storage::Storage;

/// Two chains that may end in the same layers.
pub(super) struct Chains {
    old: Vec<Box<dyn Layer>>,
    /// What only the new chain has.
    new: Vec<Box<dyn Layer>>,
    /// Index of the first layer of the old chain that belongs to both.
    join: usize,
}

/// What the two chains show in a range; none of the extents is `Absent`.
pub(super) struct Views {
    pub(super) old: Vec<Extent>,
    pub(super) new: Vec<Extent>,
}

impl Chains {
    /// Opens all layers but the overlay.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub(super) fn open(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<Self> {
        Ok(Self {
            old: open_layers(storage, job, order.old.clone())?,
            new: open_layers(storage, job, order.new.clone())?,
            join: order.join,
        })
    }

    /// The old chain, which shows through the overlay until the header changes.
    pub(super) fn old(&mut self) -> &mut [Box<dyn Layer>] {
        &mut self.old
    }

    /// Where the chains may begin to differ at or after `from`; `u64::MAX` if they do not any more. No I/O.
    pub(super) fn next_difference(&self, from: u64) -> u64 {
        let has_common_end = self.join < self.old.len();
        self.old[..self.join]
            .iter()
            .chain(&self.new)
            .map(|layer| {
                let inside = if from < layer.size_bytes() { layer.next_mapped(from) } else { u64::MAX };
                // Beyond its end a layer hides what the chains have in common.
                let beyond = if has_common_end { from.max(layer.size_bytes()) } else { u64::MAX };
                inside.min(beyond)
            })
            .min()
            .unwrap_or(u64::MAX)
    }

    /// What the chains show in `start..end`; `None` where both show the same without a look at any byte.
    ///
    /// # Errors
    /// If metadata cannot be read or contradicts itself.
    pub(super) fn views(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<Option<Views>> {
        let old = map_stack(&mut self.old[..self.join], storage, start, end)?;
        let new = map_stack(&mut self.new, storage, start, end)?;
        let is_absent = |extents: &[Extent]| extents.iter().all(|extent| extent.source == Source::Absent);
        if is_absent(&old) && is_absent(&new) {
            return Ok(None);
        }
        let common = map_chain(&mut self.old[self.join..], storage, start, end)?;
        Ok(Some(Views { old: extent::overlay_onto(&old, &common), new: extent::overlay_onto(&new, &common) }))
    }
}
