//! Compares what two chains show: devices compare plain bytes with each other and with zeros, unit by unit, so that none of
//! them enters the sandbox; only what is compressed is read.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use instar_plan::extent::{Codec, CompressedSource, Extent, Source};
use instar_plan::planted::{self, Bug};
use instar_plan::rebase::{Comparison, Verdicts, plan_comparisons};

use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::reader::{BUFFER_BYTES, Reader};
use crate::report::Failure;
use crate::storage::{CompareSegment, DeviceId, Storage, Verdict};
use crate::unpack;

/// The most packed bytes that a short cluster of zeros has: a few, rounded up to sectors from wherever they begin.
const PACKED_ZEROS_BYTES_MAX: u64 = 1024;
/// Of how many zeros every packer makes less than a byte; deflate comes to 1032.
const PACKED_ZEROS_RATIO: u64 = 256;

/// A part of the disk: what has to be compared in it, and what has been seen.
pub(crate) struct Compared {
    comparisons: Vec<Comparison>,
    pub(crate) verdicts: Verdicts,
}

impl Compared {
    /// Plans to compare `old` with `new` wherever `own` is absent; all three cover `start..end` without gaps.
    pub(crate) fn plan(
        own: &[Extent],
        old: &[Extent],
        new: &[Extent],
        (start, end): (u64, u64),
        unit_bytes: u64,
    ) -> Self {
        let mut verdicts = Verdicts::new(start, end, unit_bytes);
        let comparisons = plan_comparisons(own, old, new, &mut verdicts);
        Self { comparisons, verdicts }
    }

    /// Whether metadata alone has told everything.
    pub(crate) fn is_settled(&self) -> bool {
        self.comparisons.is_empty()
    }

    /// How many ranges have to be compared.
    pub(crate) fn count(&self) -> usize {
        self.comparisons.len()
    }

    /// How many bytes have to be read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.comparisons.iter().map(Comparison::read_bytes).sum()
    }

    /// First byte of the first unit that differs, once everything has been compared.
    pub(crate) fn first_difference(&self) -> Option<u64> {
        self.verdicts.differing().next().map(|(start, ..)| start)
    }
}

/// Two sides that are compared.
pub(crate) struct Comparer {
    old: Reader,
    new: Reader,
    unit_bytes: u64,
}

/// What a device is asked.
#[derive(Default)]
struct Questions {
    segments: Vec<CompareSegment>,
    places: Vec<Place>,
}

/// What a segment stands for.
struct Place {
    /// Index of the window.
    window: usize,
    /// Where on the disk it begins.
    guest_offset: u64,
    /// Whether the device's bytes are those of the old chain.
    is_old: bool,
}

impl Comparer {
    /// For windows whose units are `unit_bytes` long.
    pub(crate) fn new(job: &Job<'_>, unit_bytes: u64) -> Self {
        Self { old: Reader::new(job), new: Reader::new(job), unit_bytes }
    }

    /// What reads the old chain.
    pub(crate) fn old(&mut self) -> &mut Reader {
        &mut self.old
    }

    /// Compares the ranges of windows, and records in their verdicts what has been seen.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    pub(crate) fn compare(&mut self, storage: &mut dyn Storage, windows: &mut [&mut Compared]) -> Result<()> {
        if planted::is(Bug::EverythingComparesEqual) {
            return Ok(());
        }
        let mut questions: BTreeMap<u32, Questions> = BTreeMap::new();
        for (index, window) in windows.iter_mut().enumerate() {
            let window = &mut **window;
            for comparison in &window.comparisons {
                let packed = packed_beside_zeros(comparison, self.unit_bytes);
                let is_data = match packed {
                    Some(packed) => is_too_long_for_zeros(packed) || unpack::shows_data(storage, packed)?,
                    None => false,
                };
                if is_data {
                    window.verdicts.record(comparison.guest_offset, true, comparison.old == Source::Zero);
                } else if !self.gather(index, comparison, &window.verdicts, &mut questions) {
                    self.look(storage, comparison, &mut window.verdicts)?;
                }
            }
        }
        questions.into_iter().try_for_each(|(device, questions)| self.ask(storage, device, &questions, windows))
    }

    /// Adds a comparison to what the devices are asked; tells whether they can answer it.
    fn gather(
        &self,
        window: usize,
        comparison: &Comparison,
        verdicts: &Verdicts,
        questions: &mut BTreeMap<u32, Questions>,
    ) -> bool {
        let (device, offset, other, is_old) = match (comparison.old, comparison.new) {
            (Source::Data { device, host_offset }, Source::Data { device: other, host_offset: other_offset }) => {
                (device, host_offset, Some((DeviceId(other), other_offset)), true)
            }
            (Source::Data { device, host_offset }, Source::Zero) => (device, host_offset, None, true),
            (Source::Zero, Source::Data { device, host_offset }) => (device, host_offset, None, false),
            _ => return false,
        };
        let asked = questions.entry(device).or_default();
        let mut position = comparison.guest_offset;
        while position < comparison.end() {
            // Units that belong to the comparison whole make one segment; parts of units one each.
            let whole_end = comparison.end() - (comparison.end() - position) % self.unit_bytes;
            let is_whole = position.is_multiple_of(self.unit_bytes) && whole_end > position;
            let end = if is_whole { whole_end } else { verdicts.unit_end(position).min(comparison.end()) };
            let done = position - comparison.guest_offset;
            asked.segments.push(CompareSegment {
                offset: offset + done,
                other: other.map(|(device, _)| device),
                other_offset: other.map_or(0, |(_, offset)| offset + done),
                length_bytes: end - position,
                // Units are no longer than windows.
                unit_bytes: u32::try_from(self.unit_bytes).unwrap_or(u32::MAX),
            });
            asked.places.push(Place { window, guest_offset: position, is_old });
            position = end;
        }
        true
    }

    /// Has a device compare.
    fn ask(
        &mut self,
        storage: &mut dyn Storage,
        device: u32,
        questions: &Questions,
        windows: &mut [&mut Compared],
    ) -> Result<()> {
        let mut answers = Vec::new();
        storage
            .compare(DeviceId(device), &questions.segments, &mut answers)
            .map_err(|error| Failure::storage(self.old.layer(error.device.0), error))?;
        let mut answers = answers.into_iter();
        for (segment, Place { window, guest_offset, is_old }) in questions.segments.iter().zip(&questions.places) {
            let verdicts = &mut windows[*window].verdicts;
            let mut place = *guest_offset;
            while place < guest_offset + segment.length_bytes {
                match answers.next() {
                    // Equal bytes may be zeros, but nobody has looked.
                    Some(Verdict::Equal) if *is_old => verdicts.record(place, false, false),
                    Some(Verdict::Equal) | None => {}
                    Some(Verdict::Differs) => verdicts.record(place, true, !is_old),
                    Some(Verdict::DiffersFromZeros) => verdicts.record(place, true, true),
                }
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

/// The packed cluster that is compared with zeros, in a unit or several that it fills: smaller units may be zeros while it is not.
fn packed_beside_zeros(comparison: &Comparison, unit_bytes: u64) -> Option<&CompressedSource> {
    let packed = match (&comparison.old, &comparison.new) {
        (Source::Compressed(packed), Source::Zero) | (Source::Zero, Source::Compressed(packed)) => packed,
        _ => return None,
    };
    let is_whole = packed.offset_in_cluster == 0
        && comparison.length_bytes == packed.cluster_size_bytes
        && unit_bytes.is_multiple_of(packed.cluster_size_bytes);
    is_whole.then_some(packed)
}

/// Whether a cluster has too many packed bytes to be zeros. A packer that makes so many of zeros would get them stored again; nothing
/// else would be wrong. How long a vmdk grain is stands in front of it, so its bound tells nothing.
fn is_too_long_for_zeros(packed: &CompressedSource) -> bool {
    packed.codec != Codec::Zlib
        && packed.length_bytes > PACKED_ZEROS_BYTES_MAX + packed.cluster_size_bytes / PACKED_ZEROS_RATIO
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
    use super::*;
    use alloc::vec;

    #[test]
    fn a_packed_cluster_that_is_long_is_no_zeros() {
        const SIZE: u64 = 65536;
        let packed = |codec, length_bytes, offset_in_cluster| {
            let (device, layer, host_offset) = (1, 0, 0);
            Source::Compressed(CompressedSource {
                device,
                layer,
                host_offset,
                length_bytes,
                cluster_size_bytes: SIZE,
                codec,
                offset_in_cluster,
            })
        };
        let with_zeros = |old, length_bytes| Comparison { guest_offset: SIZE, length_bytes, old, new: Source::Zero };
        let is_data = |comparison: &Comparison, unit_bytes| {
            packed_beside_zeros(comparison, unit_bytes).is_some_and(is_too_long_for_zeros)
        };
        let long = packed(Codec::Zstd, 2048, 0);
        assert!(is_data(&with_zeros(long, SIZE), SIZE) && is_data(&with_zeros(long, SIZE), 4 * SIZE));
        let other_way = Comparison { old: Source::Zero, new: long, ..with_zeros(long, SIZE) };
        assert!(is_data(&other_way, SIZE));
        for (source, length_bytes, unit_bytes) in [
            (packed(Codec::Deflate, 1024, 0), SIZE, SIZE),
            (packed(Codec::Zlib, 2048, 0), SIZE, SIZE),
            (packed(Codec::Zstd, 2048, 512), SIZE, SIZE),
            (long, SIZE - 512, SIZE),
            (long, SIZE, SIZE / 2),
            (Source::Data { device: 1, host_offset: 0 }, SIZE, SIZE),
        ] {
            assert!(!is_data(&with_zeros(source, length_bytes), unit_bytes), "{source:?} {length_bytes} {unit_bytes}");
        }
        let with_data = Comparison { new: Source::Data { device: 2, host_offset: 0 }, ..with_zeros(long, SIZE) };
        assert!(!is_data(&with_data, SIZE));
    }

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

    #[test]
    fn equal_words_do_not_cancel_each_other() {
        let mut bytes = vec![0; 64];
        bytes[3] = 7;
        bytes[19] = 7;
        assert!(!is_zero(&bytes));
    }
}
