//! Finds what repeats within a window: chains of positions whose next bytes have the same hash.

use alloc::boxed::Box;

/// How far back a match may lie; what readers of qcow2 expect at most.
pub(super) const WINDOW_BYTES: usize = 4096;
/// The shortest match that deflate knows.
pub(super) const MATCH_BYTES_MIN: usize = 3;
/// The longest match that deflate knows.
pub(super) const MATCH_BYTES_MAX: usize = 258;
/// A match of this length is good enough to stop searching.
const NICE_BYTES: usize = 96;
/// How many positions of a chain are tried.
const CHAIN_MAX: usize = 64;
const HASH_BITS: u32 = 13;
const HEADS: usize = 1 << HASH_BITS;

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
    heads: Box<[u32; HEADS]>,
    previous: Box<[u32; WINDOW_BYTES]>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { heads: Box::new([0; HEADS]), previous: Box::new([0; WINDOW_BYTES]) }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.heads.fill(0);
    }

    /// Remembers a position.
    pub(super) fn insert(&mut self, bytes: &[u8], position: usize) {
        let Some(hash) = hash(bytes, position) else { return };
        self.previous[position % WINDOW_BYTES] = self.heads[hash % HEADS];
        // Clusters have at most 2^21 bytes.
        self.heads[hash % HEADS] = u32::try_from(position + 1).unwrap_or(0);
    }

    /// The longest match for `position` that is longer than `shortest`, among the positions remembered.
    pub(super) fn find(&self, bytes: &[u8], position: usize, shortest: usize) -> Match {
        let mut best = Match { length: shortest, distance: 0 };
        let Some(hash) = hash(bytes, position) else { return Match::default() };
        let length_max = (bytes.len() - position).min(MATCH_BYTES_MAX);
        let ahead = &bytes[position..position + length_max];
        let mut candidate = self.heads[hash % HEADS] as usize;
        if best.length >= length_max {
            return Match::default();
        }
        let mut decisive = ahead[best.length];
        for _ in 0..CHAIN_MAX {
            // Positions in a chain fall; what is too far back, or was overwritten by a later position, ends it.
            let Some(start) = candidate.checked_sub(1).filter(|start| *start < position) else { break };
            if position - start > WINDOW_BYTES {
                break;
            }
            if bytes[start + best.length] == decisive {
                let length = common_length(&bytes[start..start + length_max], ahead);
                if length > best.length {
                    best = Match { length, distance: position - start };
                    if length >= NICE_BYTES || length == length_max {
                        break;
                    }
                    decisive = ahead[length];
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
    let mut start = 0;
    for (left, right) in left_words.iter().zip(right_words) {
        let differing = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if differing != 0 {
            return start + differing.trailing_zeros() as usize / 8;
        }
        start += 8;
    }
    start + left[start..].iter().zip(&right[start..]).take_while(|(left, right)| left == right).count()
}

/// The hash of the three bytes at a position; `None` for the last ones, which are rarely worth a match length of their own.
fn hash(bytes: &[u8], position: usize) -> Option<usize> {
    let word: &[u8; MATCH_BYTES_MIN + 1] = bytes.get(position..position + MATCH_BYTES_MIN + 1)?.try_into().ok()?;
    let three = u32::from_le_bytes(*word) << 8;
    Some((three.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize)
}
