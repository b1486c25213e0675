//! Plans what a qcow2 overlay receives from its old chain, window by window, before it is based on another one.
//!
//! Only units that differ are touched. Where the old chain shows zeros the overlay gets zeros, which need no space; with
//! compression, clusters that the overlay does not hold any part of are stored packed.

use alloc::vec::Vec;

use instar_formats::qcow2::geometry::Geometry;

use super::compare::Verdicts;
use crate::extent::{self, Extent, Source};

/// Whether clusters are to be stored compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None.
    Never,
    /// Every cluster with data that the overlay holds no part of: packed clusters are whole clusters. In images of version 2,
    /// which have no zero clusters, zeros count as data.
    WholeClusters,
}

/// What the overlay receives in a window, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Ranges to be stored as they are, or as zeros.
    pub plain: Vec<Extent>,
    /// Clusters to be stored packed, each as the extents that the old chain shows in it, up to the end of the disk.
    pub packed: Vec<Vec<Extent>>,
}

/// Plans one window, whose units are the subclusters of `geometry`.
///
/// `own` says what the overlay holds, `old` what the old chain shows there, without `Absent`; both are in order and
/// without gaps over the window, which begins at a cluster's start and ends at one's end or at the end of the disk.
#[must_use]
pub fn plan_rebase_qcow2(
    geometry: &Geometry,
    packing: Packing,
    own: &[Extent],
    old: &[Extent],
    verdicts: &Verdicts,
) -> Received {
    let mut received = Received::default();
    let mut old_index = 0;
    let mut units = verdicts.differing().peekable();
    while let Some(&(first_unit, ..)) = units.peek() {
        let cluster_start = first_unit - geometry.offset_in_cluster(first_unit);
        let cluster_end = cluster_start.saturating_add(geometry.cluster_size_bytes());
        let mut plain = Vec::new();
        let mut has_data = false;
        while let Some((start, end, unit_has_data)) = units.next_if(|(start, ..)| *start < cluster_end) {
            has_data |= unit_has_data;
            if unit_has_data {
                clip_into(old, &mut old_index, start, end, &mut plain);
            } else {
                extent::push(
                    &mut plain,
                    Extent { guest_offset: start, length_bytes: end - start, source: Source::Zero },
                );
            }
        }
        // Where no entry can say zeros, packed ones need least room.
        let packs = packing == Packing::WholeClusters && (has_data || geometry.version < 3);
        if packs && is_free(own, cluster_start, cluster_end) {
            let mut index = old.partition_point(|extent| extent.end() <= cluster_start);
            let mut whole = Vec::new();
            clip_into(old, &mut index, cluster_start, cluster_end, &mut whole);
            received.packed.push(whole);
        } else {
            for piece in plain {
                extent::push(&mut received.plain, piece);
            }
        }
    }
    received
}

/// Whether the overlay holds nothing in a range.
fn is_free(own: &[Extent], start: u64, end: u64) -> bool {
    let first = own.partition_point(|extent| extent.end() <= start);
    own[first..].iter().take_while(|extent| extent.guest_offset < end).all(|extent| extent.source == Source::Absent)
}

/// Appends what lies in `start..end`; `index` moves on as ranges do.
pub(super) fn clip_into(extents: &[Extent], index: &mut usize, start: u64, end: u64, into: &mut Vec<Extent>) {
    while extents.get(*index).is_some_and(|extent| extent.end() <= start) {
        *index += 1;
    }
    for piece in extents[*index..].iter().map_while(|extent| extent.clipped(start, end)) {
        extent::push(into, piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebase::plan_comparisons;
    use alloc::vec;

    /// 4096-byte clusters, with or without their 32 subclusters of 128 bytes.
    fn geometry(extended_l2: bool) -> Geometry {
        Geometry { cluster_bits: 12, refcount_order: 4, extended_l2, version: 3, external_data: false }
    }

    fn extent(guest_offset: u64, length_bytes: u64, source: Source) -> Extent {
        Extent { guest_offset, length_bytes, source }
    }

    fn data(host_offset: u64) -> Source {
        Source::Data { device: 1, host_offset }
    }

    const END: u64 = 4 * 4096 - 512;

    /// Four clusters, the last one cut short: the old chain has data in the first two, the new one none.
    fn received(extended_l2: bool, packing: Packing, own: &[Extent], differing: &[(u64, bool)]) -> Received {
        let geometry = geometry(extended_l2);
        let old = [extent(0, 8192, data(0x10000)), extent(8192, END - 8192, Source::Zero)];
        let new = [extent(0, END, Source::Data { device: 2, host_offset: 0 })];
        let mut verdicts = Verdicts::new(0, END, geometry.subcluster_size_bytes());
        let _ = plan_comparisons(own, &old, &new, &mut verdicts);
        for (offset, is_zero) in differing {
            verdicts.record(*offset, true, *is_zero);
        }
        plan_rebase_qcow2(&geometry, packing, own, &old, &verdicts)
    }

    #[test]
    fn only_units_that_differ_are_received_and_zeros_stay_zeros() {
        let own = [extent(0, END, Source::Absent)];
        let differing = [(4096, false), (8192, true), (3 * 4096, true)];
        let received = received(false, Packing::Never, &own, &differing);
        assert_eq!(received.plain, [extent(4096, 4096, data(0x11000)), extent(8192, END - 8192, Source::Zero)]);
        assert!(received.packed.is_empty());
    }

    #[test]
    fn data_that_reads_as_zeros_becomes_zeros() {
        let own = [extent(0, END, Source::Absent)];
        let received = received(false, Packing::WholeClusters, &own, &[(0, true)]);
        assert_eq!(received.plain, [extent(0, 4096, Source::Zero)]);
        assert!(received.packed.is_empty());
    }

    #[test]
    fn subclusters_are_received_one_by_one() {
        let own = [extent(0, END, Source::Absent)];
        let received = received(true, Packing::Never, &own, &[(128, false), (256, false), (1024, true)]);
        assert_eq!(received.plain, [extent(128, 256, data(0x10080)), extent(1024, 128, Source::Zero)]);
    }

    #[test]
    fn without_zero_clusters_zeros_are_packed() {
        let version_2 = Geometry { version: 2, ..geometry(false) };
        let own = [extent(0, END, Source::Absent)];
        let old = [extent(0, END, Source::Zero)];
        let mut verdicts = Verdicts::new(0, END, 4096);
        verdicts.record(4096, true, true);
        let received = plan_rebase_qcow2(&version_2, Packing::WholeClusters, &own, &old, &verdicts);
        assert_eq!((received.plain.len(), received.packed), (0, vec![vec![extent(4096, 4096, Source::Zero)]]));
    }

    #[test]
    fn a_cluster_that_the_overlay_holds_in_part_is_not_packed() {
        let own = [extent(0, 128, Source::Zero), extent(128, END - 128, Source::Absent)];
        let received = received(true, Packing::WholeClusters, &own, &[(256, false), (4096, true), (4224, false)]);
        assert_eq!(received.plain, [extent(256, 128, data(0x10100))]);
        assert_eq!(received.packed, [[extent(4096, 4096, data(0x11000))]]);
    }
}
