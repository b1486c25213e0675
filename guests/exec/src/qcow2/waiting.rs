//! Clusters that wait for their places in the file, so that they get them in the order in which their sources lie there:
//! whatever order a guest has written its disk in, copies then continue each other on both sides.
//!
//! Knows where bytes come from, and nothing of where they go.

use alloc::vec::Vec;

use instar_formats::qcow2::entry::L2Entry;
use instar_plan::extent::{Extent, Source};

/// The most pieces that wait.
const PIECES_MAX: usize = 16384;
/// What lies in runs of this length on an average gains nothing from waiting.
const LONG_RUN_BYTES: u64 = 1 << 20;

/// A guest cluster that has no place yet.
pub(super) struct NewCluster {
    /// Its index.
    pub(super) cluster: u64,
    /// What goes there: in order, without overlap, and none of it `Absent`.
    pub(super) pieces: Vec<Extent>,
    /// The entry afterwards, with any host offset in place of the new one.
    pub(super) entry: L2Entry,
}

/// Clusters in the guest's order.
#[derive(Default)]
pub(super) struct Waiting {
    clusters: Vec<NewCluster>,
    pieces: usize,
    /// How many slices of L2 tables their entries lie in, and the last of them.
    slices: u64,
    last_slice: u64,
    /// What the last one's last piece is followed by.
    next_source: Option<Source>,
    runs: u64,
    bytes: u64,
}

impl Waiting {
    /// Takes a cluster in, whose entry lies in the slice of an L2 table at `slice`.
    pub(super) fn push(&mut self, cluster: NewCluster, slice: u64) {
        if self.clusters.is_empty() || slice != self.last_slice {
            self.slices += 1;
            self.last_slice = slice;
        }
        for piece in &cluster.pieces {
            self.runs += u64::from(self.next_source != Some(piece.source));
            self.next_source = Some(piece.source.advanced(piece.length_bytes));
            self.bytes += piece.length_bytes;
        }
        self.pieces += cluster.pieces.len();
        self.clusters.push(cluster);
    }

    /// How many slices of L2 tables the waiting clusters' entries lie in, if the clusters came in order.
    pub(super) fn slices(&self) -> u64 {
        self.slices
    }

    /// Whether no more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.pieces >= PIECES_MAX
    }

    /// Whether sources continue each other as it is.
    pub(super) fn is_in_long_runs(&self) -> bool {
        self.bytes >= self.runs.saturating_mul(LONG_RUN_BYTES)
    }

    /// All of them, in the order of their sources. But the last one stays the last: a file may end within its last cluster, and
    /// it does so where it would without this order.
    pub(super) fn take(&mut self) -> Vec<NewCluster> {
        let mut clusters = core::mem::take(self).clusters;
        if let [others @ .., _] = clusters.as_mut_slice() {
            others.sort_by_cached_key(|cluster| cluster.pieces.iter().find_map(place).unwrap_or((u32::MAX, u64::MAX)));
        }
        clusters
    }
}

/// Device and offset of a piece's bytes.
fn place(piece: &Extent) -> Option<(u32, u64)> {
    match piece.source {
        Source::Absent | Source::Zero => None,
        Source::Data { device, host_offset } => Some((device, host_offset)),
        Source::Compressed(source) => Some((source.device, source.host_offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const CLUSTER_BYTES: u64 = 64 << 10;

    fn new_cluster(cluster: u64, source: Source) -> NewCluster {
        let pieces = vec![Extent { guest_offset: cluster * CLUSTER_BYTES, length_bytes: CLUSTER_BYTES, source }];
        NewCluster { cluster, pieces, entry: L2Entry::UNALLOCATED }
    }

    fn data(host_cluster: u64) -> Source {
        Source::Data { device: 1, host_offset: host_cluster * CLUSTER_BYTES }
    }

    #[test]
    fn sources_give_the_order_and_the_last_stays_the_last() {
        let mut waiting = Waiting::default();
        for (cluster, source) in [(3, data(9)), (4, Source::Zero), (5, data(2)), (6, data(5)), (9, data(1))] {
            waiting.push(new_cluster(cluster, source), cluster / 4);
        }
        assert_eq!(waiting.slices(), 3);
        let order: Vec<u64> = waiting.take().iter().map(|cluster| cluster.cluster).collect();
        assert_eq!(order, [5, 6, 3, 4, 9]);
        assert_eq!((waiting.take().len(), waiting.slices()), (0, 0));
    }

    #[test]
    fn long_runs_need_not_wait() {
        let mut waiting = Waiting::default();
        for cluster in 0..15 {
            waiting.push(new_cluster(cluster, data(100 + cluster)), 0);
            assert!(!waiting.is_in_long_runs());
        }
        waiting.push(new_cluster(15, data(115)), 0);
        assert!(waiting.is_in_long_runs());
        waiting.push(new_cluster(16, data(1)), 0);
        assert!(!waiting.is_in_long_runs());
    }
}
