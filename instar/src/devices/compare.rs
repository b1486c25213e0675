//! Compares ranges of two files unit by unit, or of one with zeros, so that their bytes never enter the guest.
//!
//! What the file system does not keep reads as zeros and is not read. Once a unit has turned out to differ, the first bytes of
//! the next ones are looked at alone, all together ahead: mostly they differ there too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use instar_abi::block::verdict;

use super::backend::{Backend, Place, end_of};
use super::probes::{PROBE_BYTES, Probes};

/// How much of each side is read at once: both together stay in the processor's cache.
const BUFFER_BYTES: usize = 128 << 10;

/// What a worker needs for comparing.
#[derive(Debug)]
pub(super) struct Comparer<'a> {
    own: Side,
    other: Side,
    verdicts: Vec<u8>,
    /// Whether the unit that was compared last holds data that differs; one that another worker compared does as well.
    differed: &'a AtomicBool,
}

impl<'a> Comparer<'a> {
    /// One that has compared nothing. `differed` goes from one worker to the next.
    pub(super) fn new(differed: &'a AtomicBool) -> Self {
        Self { own: Side::default(), other: Side::default(), verdicts: Vec::new(), differed }
    }

    /// The [`verdict`] of each unit in `length` bytes from both places on; `other` is zeros where it is `None`. What lies
    /// beyond an end reads as zeros. `unit_bytes` is not zero.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn compare(
        &mut self,
        own: Place<'_>,
        other: Option<Place<'_>>,
        length: u64,
        unit_bytes: u64,
    ) -> io::Result<&[u8]> {
        end_of(own.1, length)?;
        other.map_or(Ok(0), |(_, offset)| end_of(offset, length))?;
        self.own.begin();
        self.other.begin();
        self.verdicts.clear();
        let mut start = 0;
        let mut is_likely = self.differed.load(Ordering::Relaxed);
        let mut is_expected = false;
        while start < length {
            let end = start.saturating_add(unit_bytes).min(length);
            // Short units are looked at as a whole.
            let probes = is_likely && unit_bytes > PROBE_BYTES;
            if probes && !is_expected {
                self.own.probes.look_ahead(own, start..length, unit_bytes);
                if let Some(other) = other {
                    self.other.probes.look_ahead(other, start..length, unit_bytes);
                }
                is_expected = true;
            }
            let found = self.unit(own, other, start..end, if probes { end } else { length }, probes)?;
            is_likely = found == verdict::DIFFERS;
            self.verdicts.push(found);
            start = end;
        }
        self.differed.store(is_likely, Ordering::Relaxed);
        Ok(&self.verdicts)
    }

    /// Compares one unit; reading may go on up to `limit`. Its first bytes may have been looked at ahead.
    fn unit(
        &mut self,
        own: Place<'_>,
        other: Option<Place<'_>>,
        unit: std::ops::Range<u64>,
        limit: u64,
        is_probed: bool,
    ) -> io::Result<u8> {
        let (mut differs, mut has_data) = (false, false);
        let mut at = unit.start;
        while at < unit.end && !(differs && has_data) {
            let probes = is_probed && at == unit.start;
            let count = (unit.end - at).min(if probes { PROBE_BYTES } else { BUFFER_BYTES as u64 });
            // What was looked at ahead is not read again with what follows it.
            let limit = if probes { at + count } else { limit };
            let own = self.own.bytes(own, at, count, limit)?;
            let other = other.map_or(Ok(None), |place| self.other.bytes(place, at, count, limit))?;
            let own_is_zero = own.is_none_or(is_zero);
            has_data |= !own_is_zero;
            differs |= match (own, other) {
                (Some(own), Some(other)) => own != other,
                (None, Some(other)) => !is_zero(other),
                (_, None) => !own_is_zero,
            };
            at += count;
        }
        Ok(match (differs, has_data) {
            (false, _) => verdict::EQUAL,
            (true, true) => verdict::DIFFERS,
            (true, false) => verdict::DIFFERS_FROM_ZEROS,
        })
    }
}

/// One side of a comparison: a buffer, and where the file is known to have data.
#[derive(Debug, Default)]
struct Side {
    buffer: Vec<u8>,
    /// What the buffer holds, relative to the comparison's start.
    filled: std::ops::Range<u64>,
    probes: Probes,
    /// From the first to the second offset in the file there is a hole, up to the third there is data.
    known: [u64; 3],
}

impl Side {
    /// Forgets everything: another comparison begins.
    fn begin(&mut self) {
        self.filled = 0..0;
        self.probes.begin();
        self.known = [0; 3];
    }

    /// The `count` bytes from `at` on, at most [`BUFFER_BYTES`]; `None` where they are known to be zeros. What is read ahead
    /// ends before `limit`.
    fn bytes(&mut self, (backend, offset): Place<'_>, at: u64, count: u64, limit: u64) -> io::Result<Option<&[u8]>> {
        if at < self.filled.start || at + count > self.filled.end {
            if self.is_hole(backend, offset + at, count) {
                return Ok(None);
            }
            if count <= PROBE_BYTES && self.probes.has(at) {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                return Ok(self.probes.get(at).and_then(|bytes| bytes.get(..count)));
            }
            self.buffer.resize(BUFFER_BYTES, 0);
            let length = usize::try_from(limit - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            fill(backend, offset + at, &mut self.buffer[..length])?;
            self.filled = at..at + length as u64;
        }
        let start = usize::try_from(at - self.filled.start).unwrap_or(usize::MAX);
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// Whether the file keeps no byte of a range.
    fn is_hole(&mut self, backend: &Backend<'_>, offset: u64, length: u64) -> bool {
        if offset >= backend.length_bytes() {
            return true;
        }
        let [start, data, end] = self.known;
        if !(start..end).contains(&offset) {
            let (data, end) = backend.next_data(offset).unwrap_or((u64::MAX, u64::MAX));
            self.known = [offset, data, end];
        } else if offset >= data {
            return false;
        }
        offset.saturating_add(length) <= self.known[1]
    }
}

/// Fills a buffer from a file, with zeros beyond the file's end.
fn fill(backend: &Backend<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(backend.length_bytes().saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
    let (head, tail) = buffer.split_at_mut(there);
    tail.fill(0);
    backend.read_exact(head, offset)
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<256>();
    // Most data shows itself in its first bytes; blocks keep the loop one that a compiler can vectorise.
    blocks.iter().all(|block| block.iter().fold(0, |sum, byte| sum | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}
