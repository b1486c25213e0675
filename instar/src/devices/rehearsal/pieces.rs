//! What has become of the parts of a file, as a map of ranges that do not overlap. Knows numbers only.

use std::collections::BTreeMap;

/// The most pieces; beyond them a rehearsal gives up rather than take more memory.
pub(super) const MAX_PIECES: usize = 1 << 19;
/// From this many pieces on, copies no longer note where they come from, so that neighbours can be joined.
const MAX_ORIGINS: usize = 1 << 17;

/// Where copied bytes can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a device's file as it was before, at this offset.
    File {
        /// Number of the device.
        device: u32,
        /// First byte.
        offset: u64,
    },
    /// In the scratch file, where written bytes are.
    Scratch,
    /// They are zeros.
    Zeros,
    /// That was not noted.
    Unknown,
}

/// What was done to a range last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Bytes were copied to it.
    Copied(Origin),
    /// The guest program wrote it; the bytes are in the scratch file.
    Written,
    /// It was made to read as zeros.
    Zeroed {
        /// Whether it keeps its place on the disk.
        stored: bool,
    },
    /// Its space was given back.
    Released,
}

impl Content {
    /// The content `distance` bytes further on.
    fn advanced(self, distance: u64) -> Self {
        match self {
            Self::Copied(Origin::File { device, offset }) => {
                Self::Copied(Origin::File { device, offset: offset.saturating_add(distance) })
            }
            same => same,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    end: u64,
    content: Content,
}

/// The pieces of one file, by their first bytes.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeMap<u64, Piece>);

/// A range, and what was done to it; `None` where nothing was.
pub(super) type Found = (std::ops::Range<u64>, Option<Content>);

impl Pieces {
    /// Notes what was done to a range.
    ///
    /// # Errors
    /// If that would be one piece too many.
    pub(super) fn put(&mut self, start: u64, end: u64, content: Content) -> Result<(), TooMany> {
        if start >= end {
            return Ok(());
        }
        if self.0.len() >= MAX_PIECES {
            return Err(TooMany);
        }
        let content = match content {
            Content::Copied(Origin::File { .. }) if self.0.len() >= MAX_ORIGINS => Content::Copied(Origin::Unknown),
            content => content,
        };
        self.carve(start, end);
        let mut piece = Piece { end, content };
        if let Some(right) = self.0.get(&end).copied()
            && content.advanced(end - start) == right.content
        {
            self.0.remove(&end);
            piece.end = right.end;
        }
        match self.0.range_mut(..start).next_back() {
            Some((&at, left)) if left.end == start && left.content.advanced(start - at) == content => {
                left.end = piece.end;
            }
            _ => drop(self.0.insert(start, piece)),
        }
        Ok(())
    }

    /// Forgets what was done to a range.
    pub(super) fn carve(&mut self, start: u64, end: u64) {
        if let Some((&at, left)) = self.0.range_mut(..start).next_back()
            && left.end > start
        {
            let (old_end, content) = (left.end, left.content);
            left.end = start;
            if old_end > end {
                self.0.insert(end, Piece { end: old_end, content: content.advanced(end - at) });
            }
        }
        while let Some((&at, &piece)) = self.0.range(start..end).next() {
            self.0.remove(&at);
            if piece.end > end {
                self.0.insert(end, Piece { end: piece.end, content: piece.content.advanced(end - at) });
            }
        }
    }

    /// All of a range, in order and without gaps.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = start;
        let first = self.0.range(..=start).next_back().map_or(start, |(&first, _)| first);
        for (&piece_start, piece) in self.0.range(first..end.max(first)).filter(|(_, piece)| piece.end > start) {
            if piece_start > at {
                found.push((at..piece_start, None));
                at = piece_start;
            }
            let stop = piece.end.min(end);
            found.push((at..stop, Some(piece.content.advanced(at - piece_start))));
            at = stop;
        }
        if at < end {
            found.push((at..end, None));
        }
        found
    }

    /// All pieces, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (std::ops::Range<u64>, Content)> {
        self.0.iter().map(|(&start, piece)| (start..piece.end, piece.content))
    }
}

/// There are [`MAX_PIECES`] already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(offset: u64) -> Content {
        Content::Copied(Origin::File { device: 3, offset })
    }

    #[test]
    fn copies_that_continue_each_other_are_one_piece() {
        let mut pieces = Pieces::default();
        pieces.put(10, 20, from(100)).expect("room");
        pieces.put(30, 40, from(120)).expect("room");
        pieces.put(20, 30, from(110)).expect("room");
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [(10..40, from(100))]);
        pieces.put(15, 20, Content::Written).expect("room");
        let expected = [(10..15, from(100)), (15..20, Content::Written), (20..40, from(110))];
        assert_eq!(pieces.iter().collect::<Vec<_>>(), expected);
        assert_eq!(pieces.within(0, 12), [(0..10, None), (10..12, Some(from(100)))]);
        assert_eq!(pieces.within(18, 25), [(18..20, Some(Content::Written)), (20..25, Some(from(110)))]);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut pieces = Pieces::default();
        for at in 0..MAX_PIECES as u64 {
            pieces.put(3 * at, 3 * at + 1, from(5 * at)).expect("room");
        }
        assert_eq!(pieces.put(2, 3, Content::Written), Err(TooMany));
        let last = pieces.iter().last().expect("many").1;
        assert_eq!(last, Content::Copied(Origin::Unknown), "where so many come from is not noted");
    }

    proptest! {
        #[test]
        fn the_map_is_what_a_map_of_single_bytes_would_be(
            steps in proptest::collection::vec((0u64..60, 0u64..30, 0u64..5), 0..40),
            start in 0u64..90, length in 0u64..90,
        ) {
            let mut pieces = Pieces::default();
            let mut model = BTreeMap::new();
            for (start, length, what) in steps {
                let content = match what {
                    0 => from(start / 10 * 100),
                    1 => Content::Written,
                    2 => Content::Zeroed { stored: true },
                    3 => Content::Released,
                    _ => {
                        pieces.carve(start, start + length);
                        model.retain(|at, _| !(start..start + length).contains(at));
                        continue;
                    }
                };
                pieces.put(start, start + length, content).expect("room");
                model.extend((start..start + length).map(|at| (at, content.advanced(at - start))));
            }
            let mut at = start;
            for (range, content) in pieces.within(start, start + length) {
                prop_assert_eq!(range.start, at);
                for byte in range.clone() {
                    let expected = model.get(&byte).copied();
                    prop_assert_eq!(content.map(|content| content.advanced(byte - range.start)), expected);
                }
                at = range.end;
            }
            prop_assert_eq!(at, start + length);
        }
    }
}
