//! Compares ranges of two files, so that bytes which turn out equal never enter the guest.

use std::io;

use super::backend::{Backend, end_of};

const BUFFER_BYTES: usize = 128 << 10;

/// Two buffers, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Comparer {
    left: Vec<u8>,
    right: Vec<u8>,
}

impl Comparer {
    /// Whether two ranges hold the same bytes. What lies beyond an end reads as zeros.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn equal(
        &mut self,
        left: &Backend<'_>,
        left_offset: u64,
        right: &Backend<'_>,
        right_offset: u64,
        length: u64,
    ) -> io::Result<bool> {
        end_of(left_offset, length)?;
        end_of(right_offset, length)?;
        // Beyond both ends there are only zeros.
        let there =
            left.length_bytes().saturating_sub(left_offset).max(right.length_bytes().saturating_sub(right_offset));
        let length = length.min(there);
        self.left.resize(BUFFER_BYTES, 0);
        self.right.resize(BUFFER_BYTES, 0);
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            fill(left, left_offset + done, &mut self.left[..count])?;
            fill(right, right_offset + done, &mut self.right[..count])?;
            if self.left[..count] != self.right[..count] {
                return Ok(false);
            }
            done += count as u64;
        }
        Ok(true)
    }
}

/// Fills a buffer from a file, with zeros beyond the file's end.
fn fill(backend: &Backend<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(backend.length_bytes().saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
    let (head, tail) = buffer.split_at_mut(there);
    tail.fill(0);
    backend.read_exact(head, offset)
}
