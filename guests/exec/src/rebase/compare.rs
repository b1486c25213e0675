//! Compares what two chains show: where both have plain bytes the devices compare them, and only what differs is read.

use alloc::vec::Vec;

use instar_plan::extent::Source;
use instar_plan::planted::{self, Bug};
use instar_plan::rebase::{Comparison, Verdicts};

use super::reader::{BUFFER_BYTES, Reader};
use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{CompareSegment, DeviceId, Storage};

/// Shorter ranges are compared here: a device's answer for each would cost more than the bytes.
const DEVICE_COMPARES_FROM_BYTES: u64 = 32 << 10;

/// Two sides that are compared.
pub(super) struct Comparer {
    old: Reader,
    new: Reader,
}

/// What a device is asked, and for which range.
#[derive(Default)]
struct Questions {
    device: u32,
    segments: Vec<CompareSegment>,
    ranges: Vec<Comparison>,
}

impl Comparer {
    pub(super) fn new(job: &Job<'_>) -> Self {
        Self { old: Reader::new(job), new: Reader::new(job) }
    }

    /// What reads the old chain.
    pub(super) fn old(&mut self) -> &mut Reader {
        &mut self.old
    }

    /// Compares the ranges of a window, and records in `verdicts` what they have shown.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    pub(super) fn compare(
        &mut self,
        storage: &mut dyn Storage,
        comparisons: &[Comparison],
        verdicts: &mut Verdicts,
    ) -> Result<()> {
        if planted::is(Bug::EverythingComparesEqual) {
            return Ok(());
        }
        let mut questions = Questions::default();
        for comparison in comparisons {
            match (comparison.old, comparison.new) {
                (Source::Data { device, host_offset }, Source::Data { device: other, host_offset: other_offset })
                    if comparison.length_bytes >= DEVICE_COMPARES_FROM_BYTES =>
                {
                    if questions.device != device {
                        self.ask(storage, &mut questions, verdicts)?;
                        questions.device = device;
                    }
                    let mut done = 0;
                    while done < comparison.length_bytes {
                        let length_bytes = (comparison.length_bytes - done).min(BUFFER_BYTES);
                        questions.segments.push(CompareSegment {
                            offset: host_offset + done,
                            other: DeviceId(other),
                            other_offset: other_offset + done,
                            length_bytes,
                        });
                        questions.ranges.push(Comparison {
                            guest_offset: comparison.guest_offset + done,
                            length_bytes,
                            old: comparison.old.advanced(done),
                            new: comparison.new.advanced(done),
                        });
                        done += length_bytes;
                    }
                }
                _ => self.look(storage, comparison, verdicts)?,
            }
        }
        self.ask(storage, &mut questions, verdicts)
    }

    /// Has the devices compare, and looks at what differs.
    fn ask(&mut self, storage: &mut dyn Storage, questions: &mut Questions, verdicts: &mut Verdicts) -> Result<()> {
        let mut differs = Vec::with_capacity(questions.segments.len());
        if !questions.segments.is_empty() {
            storage
                .compare(DeviceId(questions.device), &questions.segments, &mut differs)
                .map_err(|error| Failure::storage(self.old.layer(error.device.0), error))?;
        }
        questions.segments.clear();
        for (range, differs) in questions.ranges.drain(..).zip(differs) {
            if differs {
                self.look(storage, &range, verdicts)?;
                continue;
            }
            let mut place = range.guest_offset;
            while place < range.end() {
                // Equal bytes may be zeros, but nobody has looked.
                verdicts.record(place, false, false);
                place = verdicts.unit_end(place);
            }
        }
        Ok(())
    }

    /// Reads and compares a range.
    fn look(&mut self, storage: &mut dyn Storage, comparison: &Comparison, verdicts: &mut Verdicts) -> Result<()> {
        let mut position = comparison.guest_offset;
        while position < comparison.end() {
            if verdicts.is_settled(position) {
                position = verdicts.unit_end(position);
                continue;
            }
            let length = (comparison.end() - position).min(BUFFER_BYTES);
            let distance = position - comparison.guest_offset;
            let old = self.old.view(storage, comparison.old.advanced(distance), length)?;
            let new = self.new.view(storage, comparison.new.advanced(distance), length)?;
            let end = position + length;
            let mut place = position;
            while place < end {
                let next = verdicts.unit_end(place).min(end);
                let range = to_index(place - position)..to_index(next - position);
                let (old, new) = (old.map(|bytes| &bytes[range.clone()]), new.map(|bytes| &bytes[range.clone()]));
                let old_is_zero = old.is_none_or(is_zero);
                let differs = match (old, new) {
                    (Some(old), Some(new)) => old != new,
                    (None, Some(new)) => !is_zero(new),
                    (_, None) => !old_is_zero,
                };
                verdicts.record(place, differs, old_is_zero);
                place = next;
            }
            position = end;
        }
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    // Most data shows itself in its first bytes; the blocks keep the loop one that a compiler can vectorise.
    words.chunks(16).all(|block| block.iter().fold(0, |sum, word| sum | u128::from_ne_bytes(*word)) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;
    use alloc::vec;

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for length in [0, 1, 15, 16, 17, 255, 256, 257, 1000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for place in 0..length {
                bytes[place] = 0x80;
                assert!(!is_zero(&bytes), "{place} of {length}");
                bytes[place] = 0;
            }
        }
    }
}
