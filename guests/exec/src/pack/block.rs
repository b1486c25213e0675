//! Blocks of a deflate stream (RFC 1951, section 3.2): symbols counted, coded, and written bit by bit.

use alloc::vec;
use alloc::vec::Vec;

use super::huffman::{Code, codes, lengths};
use super::matches::Match;

const END_OF_BLOCK: usize = 256;
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
const CODE_LENGTHS: usize = 19;
/// The order in which the lengths of the code length code stand in a block.
const CODE_LENGTH_ORDER: [usize; CODE_LENGTHS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The longest stored block, in bytes.
const STORED_BYTES_MAX: usize = 65_535;

/// Bits on their way into bytes, lowest first.
#[derive(Default)]
pub(super) struct Bits {
    waiting: u64,
    count: u32,
}

impl Bits {
    /// Appends at most 32 bits.
    fn put(&mut self, value: usize, count: u32, into: &mut Vec<u8>) {
        self.waiting |= (value as u64) << self.count;
        self.count += count;
        if self.count >= 32 {
            into.extend_from_slice(&self.waiting.to_le_bytes()[..4]);
            self.waiting >>= 32;
            self.count -= 32;
        }
    }

    fn put_code(&mut self, code: Code, into: &mut Vec<u8>) {
        self.put(usize::from(code.bits), u32::from(code.length), into);
    }

    /// Fills the last byte up with zeros.
    pub(super) fn finish(&mut self, into: &mut Vec<u8>) {
        while self.count > 0 {
            into.push(self.waiting.to_le_bytes()[0]);
            self.waiting >>= 8;
            self.count = self.count.saturating_sub(8);
        }
    }
}

/// A symbol and the bits behind it.
#[derive(Clone, Copy)]
struct Extra {
    symbol: usize,
    value: usize,
    count: u32,
}

/// The symbol for a match length of 3 to 258.
fn length_symbol(length: usize) -> Extra {
    let distance = length - 3;
    match distance {
        0..8 => Extra { symbol: 257 + distance, value: 0, count: 0 },
        255 => Extra { symbol: 285, value: 0, count: 0 },
        _ => {
            let log = distance.ilog2();
            let count = log - 2;
            let symbol = 257 + 4 * (log as usize - 1) + ((distance >> count) & 3);
            Extra { symbol, value: distance & ((1 << count) - 1), count }
        }
    }
}

/// The symbol for a distance of 1 to 32,768.
fn distance_symbol(distance: usize) -> Extra {
    let distance = distance - 1;
    if distance < 4 {
        return Extra { symbol: distance, value: 0, count: 0 };
    }
    let log = distance.ilog2();
    let count = log - 1;
    let symbol = 2 * log as usize + ((distance >> count) & 1);
    Extra { symbol, value: distance & ((1 << count) - 1), count }
}

/// A byte as it is, or bytes that have occurred before: then the length stands above the lower 16 bits and the distance
/// in them, and the number is larger than any byte.
#[derive(Clone, Copy)]
pub(super) struct Token(u32);

impl Token {
    pub(super) fn literal(byte: u8) -> Self {
        Self(byte.into())
    }

    pub(super) fn repeat(found: Match) -> Self {
        // Lengths are at most 258 and distances at most 4096.
        Self(u32::try_from(found.length << 16 | found.distance).unwrap_or(0))
    }

    /// The byte, or length and distance.
    fn get(self) -> Result<usize, (usize, usize)> {
        let (upper, lower) = ((self.0 >> 16) as usize, (self.0 & 0xffff) as usize);
        if upper == 0 { Ok(lower) } else { Err((upper, lower)) }
    }
}

/// Writes a block that stands for `bytes`, in the shortest one of its three forms.
pub(super) fn write(tokens: &[Token], bytes: &[u8], is_last: bool, bits: &mut Bits, into: &mut Vec<u8>) {
    let (mut literal_counts, mut distance_counts) = (vec![0; LITERALS], vec![0; DISTANCES]);
    let mut extra_bits = 0;
    literal_counts[END_OF_BLOCK] = 1;
    for token in tokens {
        match token.get() {
            Ok(byte) => literal_counts[byte] += 1,
            Err((length, distance)) => {
                let (length, distance) = (length_symbol(length), distance_symbol(distance));
                literal_counts[length.symbol] += 1;
                distance_counts[distance.symbol] += 1;
                extra_bits += length.count + distance.count;
            }
        }
    }
    bits.put(usize::from(is_last), 1, into);
    if tokens.len() == bytes.len() && is_noise(&literal_counts[..END_OF_BLOCK], bytes.len()) {
        return write_stored(bytes, bits, into);
    }
    let own = [lengths(&literal_counts, 15), lengths(&distance_counts, 15)];
    let head = Head::new(&own);
    let size = |lengths: &[Vec<u8>; 2]| {
        let of = |counts: &[u32], lengths: &[u8]| -> u32 {
            counts.iter().zip(lengths).map(|(count, length)| count * u32::from(*length)).sum()
        };
        of(&literal_counts, &lengths[0]) + of(&distance_counts, &lengths[1]) + extra_bits
    };
    let fixed = fixed_lengths();
    let (own_size, fixed_size) = (size(&own) + head.size(), size(&fixed));
    if own_size.min(fixed_size) as usize >= (bytes.len() + 5) * 8 && bytes.len() <= STORED_BYTES_MAX {
        return write_stored(bytes, bits, into);
    }
    let chosen = if own_size < fixed_size {
        bits.put(2, 2, into);
        head.write(bits, into);
        own
    } else {
        bits.put(1, 2, into);
        fixed
    };
    let (literals, distances) = (codes(&chosen[0]), codes(&chosen[1]));
    for token in tokens {
        match token.get() {
            Ok(byte) => bits.put_code(literals[byte], into),
            Err((length, distance)) => {
                let (length, distance) = (length_symbol(length), distance_symbol(distance));
                bits.put_code(literals[length.symbol], into);
                bits.put(length.value, length.count, into);
                bits.put_code(distances[distance.symbol], into);
                bits.put(distance.value, distance.count, into);
            }
        }
    }
    bits.put_code(literals[END_OF_BLOCK], into);
}

/// Whether no code can make so many bytes much shorter. The sum of the squares of the frequencies gives a lower bound of a
/// byte's share: where all bytes are about as frequent as each other, that is nearly eight bits.
pub(super) fn is_noise(counts: &[u32], length: usize) -> bool {
    let squares: u64 = counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
    // 2^0.05 is 1.035: what could be gained is less than a twentieth of a bit a byte.
    let length = length as u64;
    length <= STORED_BYTES_MAX as u64 && squares * 256 * 1000 <= length * length * 1035
}

/// Writes a block of bytes as they are.
fn write_stored(bytes: &[u8], bits: &mut Bits, into: &mut Vec<u8>) {
    bits.put(0, 2, into);
    bits.finish(into);
    // At most [`STORED_BYTES_MAX`].
    let length = u16::try_from(bytes.len()).unwrap_or(0);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&(!length).to_le_bytes());
    into.extend_from_slice(bytes);
}

/// The code lengths that every reader knows; the last two symbols of each never occur but belong to the code.
fn fixed_lengths() -> [Vec<u8>; 2] {
    let mut literals = vec![8; 288];
    literals[144..256].fill(9);
    literals[256..280].fill(7);
    [literals, vec![5; 32]]
}

/// What stands before the symbols of a block with codes of its own.
struct Head {
    literals: usize,
    distances: usize,
    /// Code length symbols with the bits behind them.
    symbols: Vec<Extra>,
    lengths: Vec<u8>,
}

impl Head {
    fn new(own: &[Vec<u8>; 2]) -> Self {
        let used = |lengths: &[u8], at_least: usize| {
            lengths.iter().rposition(|length| *length != 0).map_or(0, |last| last + 1).max(at_least)
        };
        let (literals, distances) = (used(&own[0], 257), used(&own[1], 1));
        let all: Vec<u8> = own[0][..literals].iter().chain(&own[1][..distances]).copied().collect();
        let mut symbols = Vec::new();
        for run in all.chunk_by(|left, right| left == right) {
            repeat(run[0], run.len(), &mut symbols);
        }
        let mut counts = vec![0; CODE_LENGTHS];
        for symbol in &symbols {
            counts[symbol.symbol] += 1;
        }
        Self { literals, distances, lengths: lengths(&counts, 7), symbols }
    }

    /// Number of code length lengths that are written.
    fn written(&self) -> usize {
        CODE_LENGTH_ORDER.iter().rposition(|symbol| self.lengths[*symbol] != 0).map_or(0, |last| last + 1).max(4)
    }

    /// Length in bits.
    fn size(&self) -> u32 {
        let symbols: u32 = self.symbols.iter().map(|extra| u32::from(self.lengths[extra.symbol]) + extra.count).sum();
        14 + 3 * u32::try_from(self.written()).unwrap_or(0) + symbols
    }

    fn write(&self, bits: &mut Bits, into: &mut Vec<u8>) {
        bits.put(self.literals - 257, 5, into);
        bits.put(self.distances - 1, 5, into);
        bits.put(self.written() - 4, 4, into);
        for symbol in &CODE_LENGTH_ORDER[..self.written()] {
            bits.put(usize::from(self.lengths[*symbol]), 3, into);
        }
        let codes = codes(&self.lengths);
        for extra in &self.symbols {
            bits.put_code(codes[extra.symbol], into);
            bits.put(extra.value, extra.count, into);
        }
    }
}

/// A run of equal code lengths as code length symbols.
fn repeat(length: u8, mut count: usize, symbols: &mut Vec<Extra>) {
    let single = Extra { symbol: usize::from(length), value: 0, count: 0 };
    if length != 0 {
        symbols.push(single);
        count -= 1;
    }
    while count >= 3 {
        let (symbol, base, bits, most) = match length {
            0 if count >= 11 => (18, 11, 7, 138),
            0 => (17, 3, 3, 10),
            _ => (16, 3, 2, 6),
        };
        let now = count.min(most);
        symbols.push(Extra { symbol, value: now - base, count: bits });
        count -= now;
    }
    symbols.extend(core::iter::repeat_n(single, count));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_block_says_its_length_twice() {
        let (mut bits, mut into) = (Bits::default(), Vec::new());
        bits.put(1, 1, &mut into);
        write_stored(&[7; 0x1234], &mut bits, &mut into);
        assert_eq!(into[..5], [1, 0x34, 0x12, 0xcb, 0xed]);
        assert_eq!(into[5..], [7; 0x1234]);
    }

    #[test]
    fn only_what_is_about_equally_frequent_is_noise() {
        let even = [256; 256];
        assert!(is_noise(&even, 65_536 - 1));
        let mut uneven = [200; 256];
        uneven[..64].fill(424);
        assert!(!is_noise(&uneven, 65_535));
        assert!(!is_noise(&[0; 256], 1 << 20));
    }
}
