//! Bytes to a raw deflate stream: literals and matches, one position of patience, blocks.

use alloc::vec::Vec;

use super::block::{self, Bits, Token};
use super::matches::{Match, Window};

/// Tokens of a block.
const BLOCK_TOKENS: usize = 16_384;
/// A match of this length is taken without a look at the next position.
const PATIENT_BELOW_BYTES: usize = 32;

/// Deflates one cluster after the other.
pub(super) struct Deflater {
    window: Window,
    tokens: Vec<Token>,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self { window: Window::new(), tokens: Vec::with_capacity(BLOCK_TOKENS) }
    }

    /// Appends the stream for `bytes`. Stops early, with a stream that is of no use, where it gets longer than the bytes.
    pub(super) fn deflate(&mut self, bytes: &[u8], into: &mut Vec<u8>) {
        self.window.clear();
        self.tokens.clear();
        let mut bits = Bits::default();
        let mut position = 0;
        let mut found = self.window.find(bytes, position, 0);
        while position < bytes.len() {
            self.window.insert(bytes, position);
            let next = if found.length < PATIENT_BELOW_BYTES {
                self.window.find(bytes, position + 1, found.length)
            } else {
                Match::default()
            };
            if found.length == 0 || next.length > found.length {
                self.tokens.push(Token::Literal(bytes[position]));
                position += 1;
                found = next;
            } else {
                self.tokens.push(Token::Match(found));
                for passed in position + 1..position + found.length {
                    self.window.insert(bytes, passed);
                }
                position += found.length;
                found = self.window.find(bytes, position, 0);
            }
            if self.tokens.len() == BLOCK_TOKENS && position < bytes.len() {
                block::write(&self.tokens, false, &mut bits, into);
                self.tokens.clear();
                if into.len() >= bytes.len() {
                    return;
                }
            }
        }
        block::write(&self.tokens, true, &mut bits, into);
        bits.finish(into);
    }
}
