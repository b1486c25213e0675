//! Bytes to a raw deflate stream: literals and matches, one position of patience, blocks.

use alloc::vec::Vec;

use super::block::{self, Bits, Token};
use super::matches::{Match, Window};

/// Tokens of a block.
const BLOCK_TOKENS: usize = 16_384;
/// A match of this length is taken without a look at the next position.
const PATIENT_BELOW_BYTES: usize = 32;
/// After so many positions in a row without a match every second one is tried, after twice as many every third, and so on.
const MISSES_A_STEP: usize = 64;
/// The most positions that are passed over.
const STEP_MAX: usize = 32;

/// Deflates one cluster after the other.
pub(super) struct Deflater {
    window: Window,
    tokens: Vec<Token>,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { window: Window::new(), tokens: Vec::with_capacity(BLOCK_TOKENS + STEP_MAX) }
    }
}

impl Deflater {
    /// Appends the stream for `bytes`. Stops early, with a stream that is of no use, where it gets longer than the bytes.
    pub(super) fn deflate(&mut self, bytes: &[u8], into: &mut Vec<u8>) {
        self.window.clear();
        self.tokens.clear();
        let mut bits = Bits::default();
        let (mut position, mut block_start, mut misses) = (0, 0, 0);
        let mut found = self.window.find(bytes, position, 0);
        while position < bytes.len() {
            self.window.insert(bytes, position);
            if found.length == 0 {
                misses += 1;
                // Where nothing repeats there is little to be lost by looking less often.
                let step = (1 + misses / MISSES_A_STEP).min(STEP_MAX).min(bytes.len() - position);
                self.tokens.extend(bytes[position..position + step].iter().map(|byte| Token::literal(*byte)));
                position += step;
                found = self.window.find(bytes, position, 0);
            } else {
                misses = 0;
                let next = if found.length < PATIENT_BELOW_BYTES {
                    self.window.find(bytes, position + 1, found.length)
                } else {
                    Match::default()
                };
                if next.length > found.length {
                    self.tokens.push(Token::literal(bytes[position]));
                    position += 1;
                    found = next;
                } else {
                    self.tokens.push(Token::repeat(found));
                    for passed in position + 1..position + found.length {
                        self.window.insert(bytes, passed);
                    }
                    position += found.length;
                    found = self.window.find(bytes, position, 0);
                }
            }
            if self.tokens.len() >= BLOCK_TOKENS && position < bytes.len() {
                block::write(&self.tokens, &bytes[block_start..position], false, &mut bits, into);
                self.tokens.clear();
                block_start = position;
                if into.len() >= bytes.len() {
                    return;
                }
            }
        }
        block::write(&self.tokens, &bytes[block_start..], true, &mut bits, into);
        bits.finish(into);
    }
}
