//! Places of an external data file whose bytes the tables give up. Whoever reads the file without the tables, as is allowed where it is
//! raw, is to see zeros there and not what used to be.

use alloc::vec::Vec;
use core::ops::Range;

use instar_formats::qcow2::entry::{L2Entry, Subcluster};
use instar_formats::qcow2::geometry::Geometry;

use crate::storage::{DeviceId, Storage, StorageError};

/// Places that wait for being cleared.
#[derive(Default)]
pub(super) struct Vacated {
    ranges: Vec<Range<u64>>,
}

impl Vacated {
    /// How many places wait.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Notes what a cluster of a data file gives up as its entry changes: all that the host cluster holds, or subclusters of it.
    pub(super) fn note(&mut self, geometry: &Geometry, old: L2Entry, new: L2Entry) {
        let Some(host_offset) = old.host_offset(geometry) else { return };
        let keeps_host = new.host_offset(geometry) == Some(host_offset);
        let size = geometry.subcluster_size_bytes();
        let others = self.ranges.len();
        let mut start = host_offset;
        while start < host_offset + geometry.cluster_size_bytes() {
            let index = u32::try_from((start - host_offset) / size).unwrap_or(u32::MAX);
            let was_data = old.subcluster(geometry, index) == Subcluster::Data;
            let is_data = new.subcluster(geometry, index) == Subcluster::Data;
            if !is_data && (was_data || !keeps_host) {
                match self.ranges[others..].last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end += size,
                    None => self.ranges.push(start..start + size),
                }
            }
            start += size;
        }
    }

    /// Clears what waits.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn clear(&mut self, storage: &mut dyn Storage, device: DeviceId) -> Result<(), StorageError> {
        let length = storage.length_bytes(device);
        let mut ranges = core::mem::take(&mut self.ranges);
        ranges.sort_unstable_by_key(|range| range.start);
        for run in ranges.chunk_by(|left, right| left.end == right.start) {
            let (start, end) = (run[0].start, run[run.len() - 1].end.min(length));
            if start < end {
                storage.write_zeroes(device, start, end - start, true)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;
    use alloc::vec;

    const DEVICE: DeviceId = DeviceId(0);
    const SIZE: usize = 16384;

    fn cleared(
        extended_l2: bool,
        old: impl Fn(&Geometry) -> L2Entry,
        new: impl Fn(&Geometry) -> L2Entry,
    ) -> Vec<usize> {
        let geometry = Geometry { cluster_bits: 14, refcount_order: 4, extended_l2, version: 3, external_data: true };
        let mut vacated = Vacated::default();
        vacated.note(&geometry, old(&geometry), new(&geometry));
        let mut storage = MemoryStorage { devices: vec![vec![7; 3 * SIZE]] };
        vacated.clear(&mut storage, DEVICE).unwrap();
        assert!(vacated.is_empty());
        (0..3 * SIZE)
            .step_by(512)
            .filter(|at| storage.devices[0][*at..at + 512].iter().all(|byte| *byte == 0))
            .collect()
    }

    #[test]
    fn whole_clusters_are_cleared_where_nothing_holds_them_any_more() {
        let data = |geometry: &Geometry| L2Entry::data(geometry, SIZE as u64);
        for extended_l2 in [false, true] {
            assert_eq!(cleared(extended_l2, data, L2Entry::zero), (SIZE..2 * SIZE).step_by(512).collect::<Vec<_>>());
            assert_eq!(cleared(extended_l2, data, data), []);
            assert_eq!(cleared(extended_l2, L2Entry::zero, data), []);
        }
    }

    #[test]
    fn subclusters_that_become_zeros_are_cleared_in_the_cluster_that_stays() {
        let data = |geometry: &Geometry| L2Entry::data(geometry, SIZE as u64);
        // Subclusters 3, 4 and 31 become zeros (the upper half of the bitmap says so), the others stay.
        let zeros = 1 << 3 | 1 << 4 | 1 << 31;
        let partly = |geometry: &Geometry| {
            let whole = data(geometry);
            L2Entry { bitmap: (whole.bitmap & !zeros) | zeros << 32, ..whole }
        };
        let expected = [SIZE + 3 * 512, SIZE + 4 * 512, SIZE + 31 * 512];
        assert_eq!(cleared(true, data, partly), expected);
        assert_eq!(cleared(true, partly, partly), []);
    }
}
