//! An image that receives extents: the base of a commit, or the overlay of a rebase.

use alloc::boxed::Box;

use instar_plan::extent::Extent;

use crate::layer::{Layer, Result};
use crate::storage::Storage;

/// An image that is written.
pub trait Target {
    /// Virtual size in bytes.
    fn size_bytes(&self) -> u64;

    /// Makes the disk `size_bytes` long; what is new reads as zeros, whatever `below` holds there. Call it first, or not at
    /// all; a disk that is long enough stays as it is.
    ///
    /// # Errors
    /// If the format cannot do it, before anything is written; if a device refuses.
    fn grow(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()>;

    /// How many bytes of the disk are best handed over at once; a power of two.
    fn window_bytes(&self) -> u64;

    /// Records that `sources` are about to be put, where the target keeps such records. Nothing is written.
    ///
    /// # Errors
    /// If the records cannot be read.
    fn announce(&mut self, _: &mut dyn Storage, _: &[Extent]) -> Result<()> {
        Ok(())
    }

    /// Makes durable what was announced.
    ///
    /// # Errors
    /// If a device refuses.
    fn announced(&mut self, _: &mut dyn Storage) -> Result<()> {
        Ok(())
    }

    /// Carries out the part of a [`Target::put`] that needs no new space, so that what it releases can be used by the rest
    /// once [`Target::make_visible`] has returned. Tells whether there was anything to release.
    ///
    /// # Errors
    /// As [`Target::put`].
    fn vacate(&mut self, _: &mut dyn Storage, _: &[Extent]) -> Result<bool> {
        Ok(false)
    }

    /// Makes the image show `sources`, whose `Absent` parts stay as they are. All lie in the same aligned window and
    /// within the virtual size. `below` are the layers that show through where the target holds nothing.
    ///
    /// Nothing becomes visible through tables before [`Target::make_visible`]; places that are already the guest's are
    /// written at once.
    ///
    /// # Errors
    /// If a device refuses, or metadata contradicts itself.
    fn put(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()>;

    /// Gives everything put so far its place, if it waits for one, and writes it there: from then on [`Layer::map`] shows it.
    ///
    /// # Errors
    /// As [`Target::put`].
    fn place(&mut self, _: &mut dyn Storage) -> Result<()> {
        Ok(())
    }

    /// Whether so much metadata is waiting that [`Target::make_visible`] is due.
    fn is_under_pressure(&self) -> bool;

    /// Makes everything put so far durable: data and refcounts, barrier, tables, barrier, releases.
    ///
    /// # Errors
    /// If a device refuses.
    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()>;
}
