//! Counts what a commit moves: clusters of the overlay, and bytes.

use instar_abi::report::CommitReport;
use instar_plan::extent::Extent;

use crate::windows::present;

/// Nothing counted yet.
pub(crate) const NOTHING: CommitReport =
    CommitReport { clusters_committed: 0, bytes_committed: 0, overlay_clusters_cleared: 0 };

/// Adds a window's extents to the tally; a cluster that several extents share counts once.
pub(crate) fn count(tally: &mut CommitReport, sources: &[Extent], cluster_size_bytes: u64) {
    let mut counted = 0;
    for extent in present(sources) {
        let first = (extent.guest_offset / cluster_size_bytes).max(counted);
        counted = extent.end().div_ceil(cluster_size_bytes).max(counted);
        tally.clusters_committed += counted - first;
        tally.bytes_committed += extent.length_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use instar_plan::extent::Source;

    #[test]
    fn a_cluster_counts_once() {
        let extent = |guest_offset, length_bytes, source| Extent { guest_offset, length_bytes, source };
        let data = Source::Data { device: 0, host_offset: 0 };
        let sources = vec![
            extent(900, 50, data),
            extent(950, 10, Source::Zero),
            extent(960, 40, Source::Absent),
            extent(1000, 3500, data),
            extent(4500, 100, Source::Absent),
            extent(4600, 100, Source::Zero),
            extent(6000, 1000, Source::Zero),
        ];
        let mut tally = NOTHING;
        count(&mut tally, &sources, 1000);
        assert_eq!((tally.clusters_committed, tally.bytes_committed), (6, 4660));
        count(&mut tally, &[extent(7000, 1000, data)], 1000);
        assert_eq!((tally.clusters_committed, tally.bytes_committed), (7, 5660));
    }
}
