//! Layers, looked at one window of the disk after the other, so that a list of extents stays short.

use alloc::boxed::Box;

use instar_plan::extent::{Extent, Source};

use crate::layer::{Layer, Result, map_stack};
use crate::storage::Storage;

/// Calls `act` with what the layers hold together in each aligned window that holds anything.
pub(crate) fn for_each_window(
    layers: &mut [Box<dyn Layer>],
    storage: &mut dyn Storage,
    window_bytes: u64,
    mut act: impl FnMut(&mut dyn Storage, &[Extent]) -> Result<()>,
) -> Result<()> {
    let size_bytes = layers[0].size_bytes();
    let mut start = 0;
    loop {
        start = layers.iter().map(|layer| next_mapped(layer.as_ref(), start, size_bytes)).min().unwrap_or(u64::MAX);
        if start >= size_bytes {
            return Ok(());
        }
        let end = (start / window_bytes * window_bytes).saturating_add(window_bytes).min(size_bytes);
        let sources = map_stack(layers, storage, start, end)?;
        if present(&sources).next().is_some() {
            act(storage, &sources)?;
        }
        start = end;
    }
}

/// As [`Layer::next_mapped`], with the zeros that a layer shorter than `size_bytes` shows beyond its end.
fn next_mapped(layer: &dyn Layer, from: u64, size_bytes: u64) -> u64 {
    let inside = if from < layer.size_bytes() { layer.next_mapped(from) } else { u64::MAX };
    let beyond = if layer.size_bytes() < size_bytes { from.max(layer.size_bytes()) } else { u64::MAX };
    inside.min(beyond)
}

/// What is not absent.
pub(crate) fn present(extents: &[Extent]) -> impl Iterator<Item = &Extent> {
    extents.iter().filter(|extent| extent.source != Source::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A layer that may hold something at multiples of 1000.
    struct Held {
        size_bytes: u64,
    }

    impl Layer for Held {
        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn map(&mut self, _: &mut dyn Storage, _: u64, _: u64, _: &mut Vec<Extent>) -> Result<()> {
            Ok(())
        }

        fn next_mapped(&self, from: u64) -> u64 {
            let next = from.next_multiple_of(1000);
            if next < self.size_bytes { next } else { u64::MAX }
        }

        fn cluster_size_bytes(&self) -> u64 {
            1000
        }
    }

    #[test]
    fn a_shorter_layer_hides_what_lies_behind_its_end() {
        let next = |from, size_bytes| next_mapped(&Held { size_bytes: 2500 }, from, size_bytes);
        assert_eq!([next(0, 2500), next(1, 2500), next(2001, 2500), next(2500, 2500)], [0, 1000, u64::MAX, u64::MAX]);
        assert_eq!([next(1, 4000), next(2001, 4000), next(2500, 4000), next(3100, 4000)], [1000, 2500, 2500, 3100]);
    }
}
