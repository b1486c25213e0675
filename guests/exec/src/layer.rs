//! An image as a layer of a chain: where the bytes of a range lie. Nothing here writes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_formats::vmdk::Cid;
use instar_plan::extent::{self, Extent, Source};

use crate::report::Failure;
use crate::storage::Storage;

/// What reading or writing an image can end in.
pub type Result<T> = core::result::Result<T, Failure>;

/// One image of a chain.
pub trait Layer {
    /// Virtual size in bytes.
    fn size_bytes(&self) -> u64;

    /// Appends the extents of `start..end`, in order and without gaps. The range lies within the virtual size.
    ///
    /// # Errors
    /// If the metadata cannot be read or contradicts itself.
    fn map(&mut self, storage: &mut dyn Storage, start: u64, end: u64, extents: &mut Vec<Extent>) -> Result<()>;

    /// A lower bound of the first offset at or after `from` that the layer may hold something for; `u64::MAX` if nothing
    /// follows. Cheap: no I/O.
    fn next_mapped(&self, from: u64) -> u64;

    /// Number of clusters that hold or hide something, in units of `cluster_size_bytes`, where the format counts them.
    fn cluster_size_bytes(&self) -> u64;

    /// The image's content identifier, and the one that the image below must have; `None` where the format has none.
    fn content_ids(&self) -> Option<(Cid, Cid)> {
        None
    }
}

/// What a stack of layers shows in `start..end`, topmost first; what none of them holds is `Absent`.
///
/// Beyond the end of a layer everything reads as zeros, and hides what lies below.
///
/// # Errors
/// As [`Layer::map`].
pub fn map_stack(
    layers: &mut [Box<dyn Layer>],
    storage: &mut dyn Storage,
    start: u64,
    end: u64,
) -> Result<Vec<Extent>> {
    let mut merged = Vec::new();
    extent::push(&mut merged, Extent { guest_offset: start, length_bytes: end - start, source: Source::Absent });
    for layer in layers {
        let Some((first, last)) = absent_span(&merged) else { break };
        let mut own = Vec::new();
        let inside = last.min(layer.size_bytes()).max(first);
        if first < inside {
            layer.map(storage, first, inside, &mut own)?;
        }
        extent::push(&mut own, Extent { guest_offset: inside, length_bytes: last - inside, source: Source::Zero });
        merged = extent::overlay_onto(&merged, &own);
    }
    Ok(merged)
}

/// As [`map_stack`], for a stack that ends the chain: what no layer holds is zero.
///
/// # Errors
/// As [`Layer::map`].
pub fn map_chain(
    layers: &mut [Box<dyn Layer>],
    storage: &mut dyn Storage,
    start: u64,
    end: u64,
) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    for mut found in map_stack(layers, storage, start, end)? {
        if found.source == Source::Absent {
            found.source = Source::Zero;
        }
        extent::push(&mut extents, found);
    }
    Ok(extents)
}

/// From the start of the first absent extent to the end of the last one.
fn absent_span(extents: &[Extent]) -> Option<(u64, u64)> {
    let mut absent = extents.iter().filter(|extent| extent.source == Source::Absent);
    let first = absent.next()?;
    Some((first.guest_offset, absent.next_back().unwrap_or(first).end()))
}
