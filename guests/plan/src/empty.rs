//! How an emptied overlay is laid out.

use instar_formats::qcow2::geometry::Geometry;

/// The layout of a qcow2 overlay that holds nothing: header, refcount table, one refcount block, L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyLayout {
    /// Host offset of the refcount table, one cluster long.
    pub refcount_table_offset: u64,
    /// Host offset of the only refcount block.
    pub refcount_block_offset: u64,
    /// Host offset of the L1 table.
    pub l1_offset: u64,
    /// Number of clusters in the file.
    pub clusters: u64,
    /// Length of the file in bytes.
    pub length_bytes: u64,
    /// Whether the L1 table as it is lies where the refcount structures will be.
    pub l1_is_in_the_way: bool,
}

/// Plans an overlay of `l1_entries` entries to be rebuilt as an empty one; `None` where it has to be emptied cluster by
/// cluster: version 2 has no dirty bit to guard the rebuilding, an image that `holds_more` than the active disk would
/// lose it, and one refcount block must be able to describe the result.
#[must_use]
pub fn plan_empty_qcow2(geometry: &Geometry, l1_offset: u64, l1_entries: u32, holds_more: bool) -> Option<EmptyLayout> {
    let size = geometry.cluster_size_bytes();
    let l1_bytes = u64::from(l1_entries) * 8;
    let clusters = 3 + geometry.clusters_for(l1_bytes);
    if geometry.version < 3 || holds_more || clusters > geometry.refcount_block_entries() {
        return None;
    }
    Some(EmptyLayout {
        refcount_table_offset: size,
        refcount_block_offset: 2 * size,
        l1_offset: 3 * size,
        clusters,
        length_bytes: clusters * size,
        l1_is_in_the_way: l1_offset < 3 * size && l1_offset.saturating_add(l1_bytes) > size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { cluster_bits: 16, refcount_order: 4, extended_l2: false, version: 3, external_data: false };

    #[test]
    fn an_empty_overlay_is_four_clusters_long() {
        let layout = plan_empty_qcow2(&GEOMETRY, 3 << 16, 1, false).unwrap();
        assert_eq!((layout.length_bytes, layout.l1_offset, layout.l1_is_in_the_way), (4 << 16, 3 << 16, false));
        assert!(plan_empty_qcow2(&GEOMETRY, 1 << 16, 1, false).unwrap().l1_is_in_the_way);
        assert_eq!(plan_empty_qcow2(&GEOMETRY, 3 << 16, 0, false).unwrap().clusters, 3);
    }

    #[test]
    fn what_cannot_be_rebuilt_is_emptied_cluster_by_cluster() {
        assert_eq!(plan_empty_qcow2(&Geometry { version: 2, ..GEOMETRY }, 0, 1, false), None);
        assert_eq!(plan_empty_qcow2(&GEOMETRY, 0, 1, true), None);
        let small = Geometry { cluster_bits: 9, ..GEOMETRY };
        assert!(plan_empty_qcow2(&small, 0, 253 * 64, false).is_some());
        assert!(plan_empty_qcow2(&small, 0, 253 * 64 + 1, false).is_none());
    }
}
