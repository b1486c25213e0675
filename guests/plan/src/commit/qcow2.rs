//! Plans how extents get into a qcow2 image, cluster by cluster.
//!
//! Knows the table entries of the range and whether each host cluster may be overwritten; decides where bytes go, which
//! clusters are new, and what each entry becomes. The same plan serves commit (into the base) and rebase (into the overlay).

use alloc::vec::Vec;

use instar_formats::qcow2::entry::{L2Entry, Subcluster};
use instar_formats::qcow2::geometry::Geometry;

use crate::extent::{Extent, Pieces, Source};
use crate::planted::{self, Bug};

/// Whether the host cluster of an entry may be written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCluster {
    /// There is none, or the cluster is compressed.
    None,
    /// Its refcount is one.
    Exclusive,
    /// Its refcount is above one: a snapshot uses it too.
    Shared,
}

/// One cluster of the target as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetCluster {
    /// Its table entry.
    pub entry: L2Entry,
    /// Its host cluster.
    pub host: HostCluster,
}

/// What the planner has to know of the target as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Sizes.
    pub geometry: Geometry,
    /// Virtual size in bytes: what lies behind it in the last cluster belongs to nobody.
    pub size_bytes: u64,
    /// Whether something lies below the target, so that an unallocated cluster need not read as zeros.
    pub has_backing: bool,
}

/// Where a cluster's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the host cluster it has, at this offset.
    Existing(u64),
    /// Into a host cluster that is still to be allocated; the old one, if any, is released.
    New,
}

/// One thing to do; steps are in the order of the clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes go into a cluster.
    Write {
        /// Index of the guest cluster.
        cluster: u64,
        /// Where to.
        place: Place,
        /// What: in order, without overlap. `Absent` stands for what the target's chain shows there now.
        pieces: Vec<Extent>,
        /// The entry afterwards, with any host offset in place of the new one.
        entry: L2Entry,
    },
    /// The entry changes and nothing is written; its host cluster is released.
    Replace {
        /// Index of the guest cluster.
        cluster: u64,
        /// The entry afterwards.
        entry: L2Entry,
    },
}

/// Plans the clusters from `first_cluster` on, one for each element of `clusters`.
///
/// `sources` are in order; what is `Absent` in them, or not mentioned, stays as it is. Sources end at or before the
/// target's virtual size.
pub fn plan_commit_qcow2(
    target: &Target,
    first_cluster: u64,
    clusters: &[TargetCluster],
    sources: &[Extent],
    steps: &mut Vec<Step>,
) {
    let size = target.geometry.cluster_size_bytes();
    let mut offered = Pieces::of(sources);
    for (cluster, current) in (first_cluster..).zip(clusters) {
        let (start, end) = (cluster * size, ((cluster + 1) * size).min(target.size_bytes));
        if end <= offered.next_present() {
            continue;
        }
        let pieces = offered.present_in(start, end);
        if planted::is(Bug::LostLastPartialCluster) && end < (cluster + 1) * size {
            continue;
        }
        if !pieces.is_empty() {
            steps.extend(plan_cluster(target, cluster, *current, pieces, start, end));
        }
    }
}

/// Plans one cluster that receives `pieces`, which lie in `start..end`.
fn plan_cluster(
    target: &Target,
    cluster: u64,
    current: TargetCluster,
    pieces: Vec<Extent>,
    start: u64,
    end: u64,
) -> Option<Step> {
    let geometry = &target.geometry;
    let covered: u64 = pieces.iter().map(|piece| piece.length_bytes).sum();
    let all_zero = pieces.iter().all(|piece| piece.source == Source::Zero);
    if planted::is(Bug::LostZeroCluster) && all_zero {
        return None;
    }
    if all_zero && covered == end - start && (geometry.version >= 3 || !target.has_backing) {
        let entry = if geometry.version >= 3 { L2Entry::zero(geometry) } else { L2Entry::UNALLOCATED };
        return (current.entry != entry).then_some(Step::Replace { cluster, entry });
    }
    if geometry.extended_l2 && !current.entry.is_compressed() {
        return plan_subclusters(target, cluster, current, &pieces, start, end);
    }
    if all_zero && reads_as_zero(target, current.entry) {
        return None;
    }
    let (place, fill) = match (current.host, current.entry.host_offset(geometry)) {
        // A preallocated zero cluster keeps its place, but the bytes in it mean nothing yet.
        (HostCluster::Exclusive, Some(host)) => {
            (Place::Existing(host), current.entry.subcluster(geometry, 0) == Subcluster::Zero)
        }
        _ => (Place::New, true),
    };
    let host_offset = current.entry.host_offset(geometry).unwrap_or(0);
    let entry = L2Entry::data(geometry, host_offset);
    let mut pieces = if fill { filled(&pieces, start, end) } else { pieces };
    let cluster_end = start + geometry.cluster_size_bytes();
    if fill && end < cluster_end {
        // What a reused host cluster held must not come to light when the disk grows.
        pieces.push(Extent { guest_offset: end, length_bytes: cluster_end - end, source: Source::Zero });
    }
    Some(Step::Write { cluster, place, pieces, entry })
}

/// Whether the whole cluster certainly reads as zeros already.
fn reads_as_zero(target: &Target, entry: L2Entry) -> bool {
    match entry.subcluster(&target.geometry, 0) {
        Subcluster::Zero => true,
        Subcluster::Unallocated => !target.has_backing,
        Subcluster::Data => false,
    }
}

/// The pieces with the gaps between them, and up to `start` and `end`, as `Absent`.
pub(super) fn filled(pieces: &[Extent], start: u64, end: u64) -> Vec<Extent> {
    let mut all = Vec::with_capacity(pieces.len() * 2 + 1);
    let mut position = start;
    for piece in pieces {
        if position < piece.guest_offset {
            all.push(absent(position, piece.guest_offset));
        }
        all.push(*piece);
        position = piece.end();
    }
    if position < end {
        all.push(absent(position, end));
    }
    all
}

fn absent(start: u64, end: u64) -> Extent {
    Extent { guest_offset: start, length_bytes: end - start, source: Source::Absent }
}

/// Plans one cluster with subclusters: only those that are touched change.
fn plan_subclusters(
    target: &Target,
    cluster: u64,
    current: TargetCluster,
    pieces: &[Extent],
    start: u64,
    end: u64,
) -> Option<Step> {
    let geometry = &target.geometry;
    let part = geometry.subcluster_size_bytes();
    let moves = current.host == HostCluster::Shared;
    let mut entry = current.entry;
    let mut writes = Vec::new();
    let mut left_behind = Vec::new();
    for index in 0..geometry.subclusters() {
        let part_start = start + u64::from(index) * part;
        let part_end = (part_start + part).min(end);
        if part_start >= part_end {
            break;
        }
        let inside: Vec<Extent> = pieces.iter().filter_map(|piece| piece.clipped(part_start, part_end)).collect();
        let state = current.entry.subcluster(geometry, index);
        let covered: u64 = inside.iter().map(|piece| piece.length_bytes).sum();
        let all_zero = inside.iter().all(|piece| piece.source == Source::Zero);
        if inside.is_empty() {
            if state == Subcluster::Data {
                left_behind.push(absent(part_start, part_end));
            }
        } else if all_zero && covered == part_end - part_start {
            entry.bitmap = (entry.bitmap | 1 << (32 + index)) & !(1 << index);
        } else if all_zero && (state == Subcluster::Zero || (state == Subcluster::Unallocated && !target.has_backing)) {
        } else {
            let keep = state == Subcluster::Data && !moves;
            writes.extend(if keep { inside } else { filled(&inside, part_start, part_end) });
            let index = if planted::is(Bug::WrongSubclusterBit) { (index + 1) % 32 } else { index };
            entry = entry.with_data(geometry, index, current.entry.host_offset(geometry).unwrap_or(0));
        }
    }
    if writes.is_empty() {
        return (entry != current.entry).then(|| without_idle_host(geometry, cluster, entry));
    }
    if moves {
        // A cluster that moves takes along the data that is not replaced.
        writes.append(&mut left_behind);
        writes.sort_by_key(|piece| piece.guest_offset);
    }
    let place = match (moves, current.entry.host_offset(geometry)) {
        (false, Some(host)) => Place::Existing(host),
        _ => Place::New,
    };
    Some(Step::Write { cluster, place, pieces: writes, entry })
}

/// An entry none of whose subclusters needs the host cluster gives it up.
fn without_idle_host(geometry: &Geometry, cluster: u64, entry: L2Entry) -> Step {
    let holds_data = (0..geometry.subclusters()).any(|index| entry.subcluster(geometry, index) == Subcluster::Data);
    let entry = if holds_data { entry } else { L2Entry { descriptor: 0, ..entry } };
    Step::Replace { cluster, entry }
}
