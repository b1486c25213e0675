//! Allocation maps: the form of the recordings, and how fat a file is at every byte.

use crate::case::{MapKind, MapPiece};
use crate::image::{Kind, Piece};

/// Pieces of this crate's readers in the form of the recordings.
pub fn as_recorded(pieces: &[Piece]) -> Vec<MapPiece> {
    let kind = |kind| match kind {
        Kind::Data => MapKind::Data,
        Kind::Zero => MapKind::Zero,
        Kind::Absent => MapKind::Absent,
    };
    pieces.iter().map(|p| MapPiece { start: p.start, length: p.length, depth: p.depth, kind: kind(p.kind) }).collect()
}

/// How much a file itself holds at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Elsewhere,
    Zero,
    Data,
}

/// Levels over the guest's bytes: each entry holds from its offset to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatness(Vec<(u64, Level)>);

impl Fatness {
    /// Reads a recorded map.
    pub fn of(map: &[MapPiece]) -> Self {
        let mut steps = Vec::new();
        for piece in map {
            let level = match (piece.depth, piece.kind) {
                (0, MapKind::Data) => Level::Data,
                (0, MapKind::Zero) => Level::Zero,
                _ => Level::Elsewhere,
            };
            steps.push((piece.start, level));
            steps.push((piece.start + piece.length, Level::Elsewhere));
        }
        // A later step at the same offset wins.
        let mut merged: Vec<(u64, Level)> = Vec::new();
        for step in steps {
            match merged.last_mut() {
                Some(last) if last.0 == step.0 => *last = step,
                _ => merged.push(step),
            }
        }
        Self(merged)
    }

    /// The fattest of several maps at every byte.
    pub fn of_any<'a>(maps: impl Iterator<Item = &'a [MapPiece]>) -> Self {
        maps.map(Self::of).fold(Self(Vec::new()), |sum, map| sum.combine(&map))
    }

    fn level(&self, offset: u64) -> Level {
        let next = self.0.partition_point(|step| step.0 <= offset);
        next.checked_sub(1).map_or(Level::Elsewhere, |at| self.0[at].1)
    }

    fn offsets<'a>(&'a self, other: &'a Self) -> Vec<u64> {
        let mut offsets: Vec<u64> = self.0.iter().chain(&other.0).map(|step| step.0).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    fn combine(&self, other: &Self) -> Self {
        Self(self.offsets(other).into_iter().map(|at| (at, self.level(at).max(other.level(at)))).collect())
    }

    /// Where `now` is fatter than this, in words.
    pub fn first_excess(&self, now: &Self) -> Option<String> {
        let at = self.offsets(now).into_iter().find(|at| now.level(*at) > self.level(*at))?;
        Some(format!("at {at:#x} the file holds {:?}, at most {:?} was recorded", now.level(at), self.level(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, length: u64, depth: usize, kind: MapKind) -> MapPiece {
        MapPiece { start, length, depth, kind }
    }

    #[test]
    fn data_where_every_recording_says_zero_is_fatter() {
        let one = [piece(0, 10, 0, MapKind::Data), piece(10, 10, 0, MapKind::Zero)];
        let other = [piece(0, 20, 1, MapKind::Data)];
        let recorded = Fatness::of_any([&one[..], &other[..]].into_iter());
        let now = Fatness::of(&[piece(0, 12, 0, MapKind::Data), piece(12, 8, 1, MapKind::Data)]);
        assert!(recorded.first_excess(&now).expect("fatter").starts_with("at 0xa "));
    }

    #[test]
    fn leaner_and_equal_pass() {
        let recorded = Fatness::of(&[piece(0, 10, 0, MapKind::Data), piece(10, 10, 0, MapKind::Zero)]);
        assert_eq!(recorded.first_excess(&recorded), None);
        assert_eq!(recorded.first_excess(&Fatness::of(&[piece(0, 20, 0, MapKind::Zero)])), None);
        assert_eq!(recorded.first_excess(&Fatness::of(&[piece(0, 20, 0, MapKind::Absent)])), None);
    }
}
