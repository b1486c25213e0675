//! Huffman codes of limited length for deflate (RFC 1951, section 3.2.2).

use alloc::vec;
use alloc::vec::Vec;

/// The code of a symbol, ready for a stream that is filled from the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Code {
    /// The bits, first one lowest.
    pub(super) bits: u16,
    /// How many; 0 for a symbol that does not occur.
    pub(super) length: u8,
}

/// Lengths of a code for symbols that occur `counts` times, none above `length_max`. At least two symbols get one, so that
/// every reader takes the code for complete.
pub(super) fn lengths(counts: &[u32], length_max: usize) -> Vec<u8> {
    let mut symbols: Vec<(u32, usize)> =
        counts.iter().enumerate().filter(|(_, count)| **count != 0).map(|(symbol, count)| (*count, symbol)).collect();
    let missing = 2usize.saturating_sub(symbols.len());
    let unused = counts.iter().enumerate().filter(|(_, count)| **count == 0);
    symbols.extend(unused.take(missing).map(|(symbol, _)| (1, symbol)));
    symbols.sort_unstable();
    let mut of_length = vec![0usize; length_max + 1];
    for depth in depths(&symbols) {
        of_length[depth.min(length_max)] += 1;
    }
    // Codes that were cut short take more room than there is: deepen shorter ones until all fit.
    let mut room: usize = (1..=length_max).map(|length| of_length[length] << (length_max - length)).sum();
    while room > 1 << length_max {
        let length = (1..length_max).rev().find(|length| of_length[*length] != 0).unwrap_or(1);
        of_length[length_max] -= 1;
        of_length[length] -= 1;
        of_length[length + 1] += 2;
        room -= 1;
    }
    let mut lengths = vec![0; counts.len()];
    let mut rarest_first = symbols.iter();
    for length in (1..=length_max).rev() {
        for (_, symbol) in rarest_first.by_ref().take(of_length[length]) {
            // At most 15.
            lengths[*symbol] = u8::try_from(length).unwrap_or(0);
        }
    }
    lengths
}

/// Depth of each symbol in a Huffman tree; `symbols` are in ascending order of their counts, at least two.
fn depths(symbols: &[(u32, usize)]) -> Vec<usize> {
    let count = symbols.len();
    // Leaves come first, inner nodes behind them in the order of their making, which is ascending too.
    let mut weights: Vec<u64> = symbols.iter().map(|(count, _)| u64::from(*count)).collect();
    let mut parents = vec![0; 2 * count - 1];
    let (mut leaf, mut inner) = (0, count);
    for node in count..2 * count - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let takes_leaf = leaf < count && (inner >= node || weights[leaf] <= weights[inner]);
            let child = if takes_leaf { &mut leaf } else { &mut inner };
            weight += weights[*child];
            parents[*child] = node;
            *child += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0; 2 * count - 1];
    for node in (0..2 * count - 2).rev() {
        depths[node] = depths[parents[node]] + 1;
    }
    depths.truncate(count);
    depths
}

/// The codes that follow from their lengths.
pub(super) fn codes(lengths: &[u8]) -> Vec<Code> {
    let mut of_length = [0u16; 16];
    for length in lengths.iter().filter(|length| **length != 0) {
        of_length[usize::from(*length)] += 1;
    }
    let mut next = [0u16; 16];
    for length in 1..16 {
        next[length] = (next[length - 1] + of_length[length - 1]) << 1;
    }
    lengths
        .iter()
        .map(|&length| {
            if length == 0 {
                return Code::default();
            }
            let bits = next[usize::from(length)];
            next[usize::from(length)] += 1;
            Code { bits: bits.reverse_bits() >> (16 - length), length }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_complete(lengths: &[u8]) -> bool {
        lengths.iter().filter(|length| **length != 0).map(|length| 1u64 << (15 - length)).sum::<u64>() == 1 << 15
    }

    #[test]
    fn frequent_symbols_get_short_codes() {
        assert_eq!(lengths(&[5, 0, 1, 1, 10], 15), [2, 0, 3, 3, 1]);
    }

    #[test]
    fn codes_are_complete_at_any_limit() {
        let fibonacci: Vec<u32> = (0..30)
            .scan((1, 1), |pair, _| {
                *pair = (pair.1, pair.0 + pair.1);
                Some(pair.0)
            })
            .collect();
        for limit in [5, 7, 15] {
            let lengths = lengths(&fibonacci, limit);
            assert!(is_complete(&lengths), "limit {limit}: {lengths:?}");
            assert!(lengths.iter().all(|length| (1..=limit).contains(&usize::from(*length))));
        }
        assert!(is_complete(&lengths(&[0, 0, 9], 15)) && is_complete(&lengths(&[0, 0, 0], 7)));
    }

    #[test]
    fn codes_follow_from_lengths_as_the_standard_says() {
        // The example of RFC 1951, section 3.2.2, with its bits in the order of the stream.
        let codes = codes(&[3, 3, 3, 3, 3, 2, 4, 4]);
        let bits: Vec<u16> = codes.iter().map(|code| code.bits).collect();
        assert_eq!(bits, [0b010, 0b110, 0b001, 0b101, 0b011, 0b00, 0b0111, 0b1111]);
    }
}
