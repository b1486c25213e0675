//! Finds what repeats within a window: chains of positions whose next bytes have the same hash.

use alloc::boxed::Box;
use alloc::vec;

/// How far back a match may lie; what readers of qcow2 expect at most.
pub(super) const WINDOW_BYTES: usize = 4096;
/// The shortest match that deflate knows.
pub(super) const MATCH_BYTES_MIN: usize = 3;
/// The longest match that deflate knows.
pub(super) const MATCH_BYTES_MAX: usize = 258;
/// A match of this length is good enough to stop searching.
const NICE_BYTES: usize = 128;
/// How many positions of a chain are tried.
const CHAIN_MAX: usize = 128;
const HASH_BITS: u32 = 12;

/// Bytes that have occurred before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// 0 for none, otherwise 3 to 258.
    pub(super) length: usize,
    /// 1 to [`WINDOW_BYTES`].
    pub(super) distance: usize,
}

/// The positions seen so far, by the hash of the three bytes there. Stored plus one; 0 stands for none.
pub(super) struct Window {
    heads: Box<[u32]>,
    previous: Box<[u32]>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { heads: vec![0; 1 << HASH_BITS].into_boxed_slice(), previous: vec![0; WINDOW_BYTES].into_boxed_slice() }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.heads.fill(0);
    }

    /// Remembers a position.
    pub(super) fn insert(&mut self, bytes: &[u8], position: usize) {
        let Some(hash) = hash(bytes, position) else { return };
        self.previous[position % WINDOW_BYTES] = self.heads[hash];
        // Clusters have at most 2^21 bytes.
        self.heads[hash] = u32::try_from(position + 1).unwrap_or(0);
    }

    /// The longest match for `position` that is longer than `shortest`, among the positions remembered.
    pub(super) fn find(&self, bytes: &[u8], position: usize, shortest: usize) -> Match {
        let mut best = Match { length: shortest, distance: 0 };
        let Some(hash) = hash(bytes, position) else { return Match::default() };
        let length_max = (bytes.len() - position).min(MATCH_BYTES_MAX);
        let ahead = &bytes[position..position + length_max];
        let mut candidate = self.heads[hash] as usize;
        for _ in 0..CHAIN_MAX {
            // Positions in a chain fall; what is too far back, or was overwritten by a later position, ends it.
            let Some(start) = candidate.checked_sub(1).filter(|start| *start < position) else { break };
            let distance = position - start;
            if distance > WINDOW_BYTES || best.length >= length_max {
                break;
            }
            if bytes[start + best.length] == ahead[best.length] {
                let length = common_length(&bytes[start..start + length_max], ahead);
                if length > best.length {
                    best = Match { length, distance };
                    if length >= NICE_BYTES {
                        break;
                    }
                }
            }
            let next = self.previous[start % WINDOW_BYTES] as usize;
            if next >= candidate {
                break;
            }
            candidate = next;
        }
        if best.distance == 0 || best.length < MATCH_BYTES_MIN { Match::default() } else { best }
    }
}

/// Number of bytes that two slices of equal length have in common at their start.
fn common_length(left: &[u8], right: &[u8]) -> usize {
    let (left_words, right_words) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
    let words = left_words.iter().zip(right_words).take_while(|(left, right)| left == right).count();
    let start = words * 8;
    start + left[start..].iter().zip(&right[start..]).take_while(|(left, right)| left == right).count()
}

/// The hash of the three bytes at a position; `None` for the last ones, which are rarely worth a match length of their own.
fn hash(bytes: &[u8], position: usize) -> Option<usize> {
    let &[first, second, third, _] = bytes.get(position..position + MATCH_BYTES_MIN + 1)? else { return None };
    let word = u32::from_le_bytes([first, second, third, 0]);
    usize::try_from(word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)).ok()
}
