//! Plans how extents get into a sparse extent of a vmdk image, grain by grain.
//!
//! Knows the grain table entries of the range; decides where bytes go, which grains are new, and which become zeros by
//! their entry alone.

use alloc::vec::Vec;

use instar_formats::vmdk::{Geometry, GrainEntry};

use super::Place;
use crate::extent::{Extent, Pieces, Source};

/// What the planner has to know of the sparse extent as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseTarget {
    /// Sizes.
    pub geometry: Geometry,
    /// Where on the disk the extent begins, in bytes.
    pub start: u64,
    /// Whether something lies below the image, so that an unallocated grain need not read as zeros.
    pub has_backing: bool,
    /// Whether grains are packed, so that one that changes needs a new place.
    pub is_compressed: bool,
}

/// One thing to do; steps are in the order of the grains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrainStep {
    /// Bytes go into a grain, whose entry leads to them afterwards.
    Write {
        /// Index of the grain in its extent.
        grain: u64,
        /// Where to.
        place: Place,
        /// What: in order, without overlap. `Absent` stands for what the image and its chain show there now. For a new
        /// place they cover the grain as far as it lies on the disk; what lies behind is zeros.
        pieces: Vec<Extent>,
    },
    /// The entry says zeros; the grain, if there was one, is given up.
    Zero {
        /// Index of the grain in its extent.
        grain: u64,
    },
}

/// Plans the grains from `first_grain` on, one for each element of `entries`.
///
/// `sources` are in order and in offsets of the disk; what is `Absent` in them, or not mentioned, stays as it is.
pub fn plan_commit_vmdk(
    target: &SparseTarget,
    first_grain: u64,
    entries: &[GrainEntry],
    sources: &[Extent],
    steps: &mut Vec<GrainStep>,
) {
    let mut offered = Pieces::of(sources);
    for (grain, entry) in (first_grain..).zip(entries) {
        let start = target.start + target.geometry.grain_start(grain);
        let end = target.start + target.geometry.grain_start(grain + 1).min(target.geometry.capacity_bytes);
        let pieces = offered.present_in(start, end);
        if !pieces.is_empty() {
            steps.extend(plan_grain(target, grain, *entry, pieces, start, end));
        }
    }
}

/// Plans one grain that receives `pieces`, which lie in `start..end`.
fn plan_grain(
    target: &SparseTarget,
    grain: u64,
    entry: GrainEntry,
    pieces: Vec<Extent>,
    start: u64,
    end: u64,
) -> Option<GrainStep> {
    if pieces.iter().all(|piece| piece.source == Source::Zero) {
        let covered: u64 = pieces.iter().map(|piece| piece.length_bytes).sum();
        if entry == GrainEntry::Zeroed || (entry == GrainEntry::Unallocated && !target.has_backing) {
            return None;
        }
        if covered == end - start && target.geometry.has_zeroed_grains {
            return Some(GrainStep::Zero { grain });
        }
    }
    match entry.host_offset() {
        Some(host_offset) if !target.is_compressed => {
            Some(GrainStep::Write { grain, place: Place::Existing(host_offset), pieces })
        }
        _ => Some(GrainStep::Write { grain, place: Place::New, pieces: filled(&pieces, start, end) }),
    }
}

/// The pieces with the gaps between them, and up to `start` and `end`, as `Absent`.
fn filled(pieces: &[Extent], start: u64, end: u64) -> Vec<Extent> {
    let mut all = Vec::with_capacity(pieces.len() * 2 + 1);
    let mut position = start;
    let absent =
        |start: u64, end: u64| Extent { guest_offset: start, length_bytes: end - start, source: Source::Absent };
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const GRAIN: u64 = 65536;

    fn target(has_zeroed_grains: bool, has_backing: bool) -> SparseTarget {
        let geometry = Geometry {
            grain_size_bytes: GRAIN,
            table_entries: 512,
            capacity_bytes: 4 * GRAIN + 512,
            has_zeroed_grains,
        };
        SparseTarget { geometry, start: 10 * GRAIN, has_backing, is_compressed: false }
    }

    fn data(guest_offset: u64, length_bytes: u64) -> Extent {
        Extent { guest_offset, length_bytes, source: Source::Data { device: 7, host_offset: guest_offset } }
    }

    fn plain(guest_offset: u64, length_bytes: u64, source: Source) -> Extent {
        Extent { guest_offset, length_bytes, source }
    }

    fn plan(target: &SparseTarget, entry: GrainEntry, sources: &[Extent]) -> Vec<GrainStep> {
        let mut steps = vec![];
        plan_commit_vmdk(target, 0, &[entry], sources, &mut steps);
        steps
    }

    #[test]
    fn overwrite_in_place_and_fill_what_is_new() {
        let target = target(false, true);
        let piece = data(10 * GRAIN + 512, 512);
        assert_eq!(
            plan(&target, GrainEntry::Allocated(128), &[piece]),
            vec![GrainStep::Write { grain: 0, place: Place::Existing(GRAIN), pieces: vec![piece] }]
        );
        let filled =
            vec![plain(10 * GRAIN, 512, Source::Absent), piece, plain(10 * GRAIN + 1024, GRAIN - 1024, Source::Absent)];
        assert_eq!(
            plan(&target, GrainEntry::Unallocated, &[piece]),
            vec![GrainStep::Write { grain: 0, place: Place::New, pieces: filled }]
        );
    }

    #[test]
    fn zeros_need_a_grain_only_where_nothing_else_says_zero() {
        let whole = [plain(10 * GRAIN, GRAIN, Source::Zero)];
        let part = [plain(10 * GRAIN, 512, Source::Zero)];
        assert_eq!(plan(&target(false, false), GrainEntry::Unallocated, &whole), vec![]);
        assert_eq!(plan(&target(true, true), GrainEntry::Zeroed, &part), vec![]);
        assert_eq!(plan(&target(true, true), GrainEntry::Unallocated, &whole), vec![GrainStep::Zero { grain: 0 }]);
        assert_eq!(plan(&target(true, false), GrainEntry::Allocated(128), &whole), vec![GrainStep::Zero { grain: 0 }]);
        for (target, sources) in [(target(false, true), whole), (target(true, true), part)] {
            let steps = plan(&target, GrainEntry::Unallocated, &sources);
            assert!(matches!(&steps[..], [GrainStep::Write { place: Place::New, .. }]), "{steps:?}");
        }
    }

    #[test]
    fn the_last_grain_ends_with_the_disk() {
        let mut steps = vec![];
        let sources = [data(14 * GRAIN + 100, 412)];
        plan_commit_vmdk(&target(false, false), 4, &[GrainEntry::Unallocated], &sources, &mut steps);
        let [GrainStep::Write { grain: 4, pieces, .. }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(pieces.last().map(Extent::end), Some(14 * GRAIN + 512));
    }

    #[test]
    fn a_packed_grain_moves() {
        let target = SparseTarget { is_compressed: true, ..target(false, false) };
        let steps = plan(&target, GrainEntry::Allocated(128), &[data(10 * GRAIN, 512)]);
        assert!(matches!(&steps[..], [GrainStep::Write { place: Place::New, .. }]), "{steps:?}");
    }
}
