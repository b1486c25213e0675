//! The qcow2 planner: each rule as a fact, and the plan of any cluster against a model that works byte by byte.

use instar_formats::qcow2::entry::{L2Entry, Subcluster};
use instar_formats::qcow2::geometry::Geometry;
use instar_plan::commit::{HostCluster, Place, Step, Target, TargetCluster, plan_commit_qcow2};
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;

const CLUSTER: u64 = 1 << 14;
const HOST: u64 = 5 * CLUSTER;

fn target(version: u32, extended_l2: bool, has_backing: bool) -> Target {
    let geometry = Geometry { cluster_bits: 14, refcount_order: 4, extended_l2, version, external_data: false };
    Target { geometry, size_bytes: 4 * CLUSTER, has_backing }
}

fn zero(guest_offset: u64, length_bytes: u64) -> Extent {
    Extent { guest_offset, length_bytes, source: Source::Zero }
}

fn data(guest_offset: u64, length_bytes: u64) -> Extent {
    Extent { guest_offset, length_bytes, source: Source::Data { device: 9, host_offset: guest_offset } }
}

fn plan(target: &Target, current: TargetCluster, sources: &[Extent]) -> Vec<Step> {
    let mut steps = Vec::new();
    plan_commit_qcow2(target, 0, &[current], sources, &mut steps);
    steps
}

fn unallocated() -> TargetCluster {
    TargetCluster { entry: L2Entry::UNALLOCATED, host: HostCluster::None }
}

fn exclusive(target: &Target) -> TargetCluster {
    TargetCluster { entry: L2Entry::data(&target.geometry, HOST), host: HostCluster::Exclusive }
}

#[test]
fn a_whole_zero_cluster_becomes_a_zero_cluster() {
    let target = target(3, false, false);
    let entry = L2Entry::zero(&target.geometry);
    assert_eq!(plan(&target, exclusive(&target), &[zero(0, CLUSTER)]), [Step::Replace { cluster: 0, entry }]);
    assert_eq!(plan(&target, unallocated(), &[zero(0, CLUSTER)]), [Step::Replace { cluster: 0, entry }]);
}

#[test]
fn version_2_gives_zeros_back_where_nothing_lies_below_and_writes_them_otherwise() {
    let alone = target(2, false, false);
    let step = Step::Replace { cluster: 0, entry: L2Entry::UNALLOCATED };
    assert_eq!(plan(&alone, exclusive(&alone), &[zero(0, CLUSTER)]), [step]);
    let above = target(2, false, true);
    let steps = plan(&above, unallocated(), &[zero(0, CLUSTER)]);
    assert!(matches!(&steps[..], [Step::Write { place: Place::New, pieces, .. }] if pieces == &[zero(0, CLUSTER)]));
}

#[test]
fn part_of_a_zero_cluster_needs_nothing_where_zeros_are_read_already() {
    let target = target(3, false, false);
    assert_eq!(plan(&target, unallocated(), &[zero(0, 512)]), []);
}

#[test]
fn an_exclusive_cluster_is_written_in_place_and_a_shared_one_is_not() {
    let target = target(3, false, false);
    let steps = plan(&target, exclusive(&target), &[data(512, 512)]);
    assert!(
        matches!(&steps[..], [Step::Write { place: Place::Existing(HOST), pieces, .. }] if pieces == &[data(512, 512)])
    );
    let shared = TargetCluster { host: HostCluster::Shared, ..exclusive(&target) };
    let steps = plan(&target, shared, &[data(512, 512)]);
    let Step::Write { place: Place::New, pieces, .. } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(pieces.iter().map(|piece| piece.length_bytes).collect::<Vec<_>>(), [512, 512, CLUSTER - 1024]);
    assert_eq!((pieces[0].source, pieces[2].source), (Source::Absent, Source::Absent));
}

#[test]
fn what_a_reused_cluster_holds_behind_the_end_of_the_disk_is_cleared() {
    let target = Target { size_bytes: 1024, ..target(3, false, false) };
    let steps = plan(&target, unallocated(), &[data(0, 1024)]);
    let Step::Write { pieces, .. } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(pieces[..], [data(0, 1024), zero(1024, CLUSTER - 1024)]);
}

#[test]
fn only_touched_subclusters_change() {
    let target = target(3, true, true);
    let steps = plan(&target, unallocated(), &[data(512, 512)]);
    let Step::Write { entry, pieces, .. } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!((pieces.len(), entry.bitmap), (1, 0b10));
}

/// What one byte of a cluster is after a plan: which of the sources it shows, or what it was.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    Before,
    Zero,
    Source(u64),
}

/// What a source that covers `offset` shows there.
fn shown_by(source: Source) -> Shown {
    match source {
        Source::Absent => Shown::Before,
        Source::Zero => Shown::Zero,
        Source::Data { host_offset, .. } => Shown::Source(host_offset),
        Source::Compressed(_) => unreachable!("the test makes none"),
    }
}

/// What the byte at `offset` is once `steps` have been carried out.
fn after(target: &Target, current: TargetCluster, steps: &[Step], offset: u64) -> Shown {
    let part = u32::try_from(offset / target.geometry.subcluster_size_bytes()).unwrap();
    let state = |entry: L2Entry| entry.subcluster(&target.geometry, part);
    let unwritten = |entry: L2Entry| match state(entry) {
        _ if state(entry) == state(current.entry) && state(entry) != Subcluster::Zero => Shown::Before,
        Subcluster::Zero => Shown::Zero,
        // Bytes of the host cluster that nobody wrote, or the backing file instead of data: both are wrong.
        Subcluster::Data => Shown::Source(u64::MAX),
        Subcluster::Unallocated if target.has_backing => Shown::Source(u64::MAX),
        Subcluster::Unallocated => Shown::Zero,
    };
    match steps {
        [] => Shown::Before,
        [Step::Replace { entry, .. }] => unwritten(*entry),
        [Step::Write { entry, place, pieces, .. }] => {
            let piece = pieces.iter().find_map(|piece| piece.clipped(offset, offset + 1));
            let in_place = matches!(place, Place::Existing(_));
            assert!(!in_place || current.host == HostCluster::Exclusive, "a shared cluster is overwritten");
            let entry = &match place {
                Place::Existing(host_offset) => entry.moved_to(*host_offset),
                Place::New => entry.moved_to(2 * HOST),
            };
            match piece {
                Some(piece) => {
                    assert_eq!(state(*entry), Subcluster::Data, "a byte is written that the entry does not show");
                    shown_by(piece.source)
                }
                None if *place == Place::New && state(*entry) == Subcluster::Data => Shown::Source(u64::MAX),
                None => unwritten(*entry),
            }
        }
        more => panic!("{} steps for one cluster", more.len()),
    }
}

fn current(target: Target) -> impl Strategy<Value = TargetCluster> {
    (any::<u32>(), any::<u32>(), 0..4u8).prop_map(move |(allocated, zero, kind)| {
        let geometry = &target.geometry;
        let shared = if kind == 3 { HostCluster::Shared } else { HostCluster::Exclusive };
        let with_host = |entry: L2Entry| TargetCluster { entry, host: shared };
        if geometry.extended_l2 {
            let bitmap = u64::from(allocated & !zero) | u64::from(zero) << 32;
            return match kind {
                0 => TargetCluster {
                    entry: L2Entry { descriptor: 0, bitmap: bitmap >> 32 << 32 },
                    host: HostCluster::None,
                },
                _ => with_host(L2Entry { bitmap, ..L2Entry::data(geometry, HOST) }),
            };
        }
        match kind {
            0 => unallocated(),
            1 if geometry.version >= 3 => TargetCluster { entry: L2Entry::zero(geometry), host: HostCluster::None },
            _ if allocated & 1 == 1 && geometry.version >= 3 => {
                let data = L2Entry::data(geometry, HOST);
                with_host(L2Entry { descriptor: data.descriptor | 1, ..data })
            }
            _ => with_host(L2Entry::data(geometry, HOST)),
        }
    })
}

fn case() -> impl Strategy<Value = (Target, TargetCluster, Vec<Extent>)> {
    let lengths = prop::collection::vec((0..3u8, prop_oneof![1..40u64, 1..24u64]), 0..8);
    let target = (2..=3u32, any::<bool>(), any::<bool>(), 1..=CLUSTER / 512).prop_map(
        |(version, extended, backing, sectors)| {
            let extended = extended && version == 3;
            Target { size_bytes: sectors * 512, ..target(version, extended, backing) }
        },
    );
    (target, lengths).prop_flat_map(|(target, lengths)| {
        let mut sources = Vec::new();
        let mut offset = 0;
        for (kind, sectors) in lengths {
            let length_bytes = (sectors * 512).min(target.size_bytes - offset);
            if length_bytes == 0 {
                break;
            }
            let source = match kind {
                0 => Source::Absent,
                1 => Source::Zero,
                _ => Source::Data { device: 9, host_offset: offset },
            };
            sources.push(Extent { guest_offset: offset, length_bytes, source });
            offset += length_bytes;
        }
        (Just(target), current(target), Just(sources))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_shows_its_source_or_what_it_was((target, current, sources) in case()) {
        let steps = plan(&target, current, &sources);
        for offset in (0..target.size_bytes).step_by(512) {
            let source = sources.iter().find_map(|source| source.clipped(offset, offset + 1)).map_or(Source::Absent, |found| found.source);
            let found = after(&target, current, &steps, offset);
            let part = u32::try_from(offset / target.geometry.subcluster_size_bytes()).unwrap();
            let was_zero = match current.entry.subcluster(&target.geometry, part) {
                Subcluster::Zero => true,
                Subcluster::Unallocated => !target.has_backing,
                Subcluster::Data => false,
            };
            let expected = shown_by(source);
            let equal = found == expected
                || was_zero && matches!((found, expected), (Shown::Before, Shown::Zero) | (Shown::Zero, Shown::Before));
            prop_assert!(equal, "byte {offset}: {found:?} instead of {expected:?}; steps {steps:?}");
        }
    }
}
