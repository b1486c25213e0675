//! Cuts a list of copies into runs: pieces that continue each other on the target, so that they can be gathered and written
//! in one go. Knows numbers only.

use instar_abi::block::CopyRecord;

/// The most parts of one record, which bounds what a hostile length can cost the host.
const MAX_PARTS: u64 = 64;
/// A list longer than this has enough records to share among workers; none of them is cut.
const UNCUT_RECORDS: usize = 64;

/// What one worker copies in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run<'r> {
    /// Index of the first record in its list.
    pub(super) first: usize,
    /// The records. More than one of them are all whole.
    records: &'r [CopyRecord],
    /// Bytes of the first record that lie in front of the run.
    skip: u64,
    /// Length of the run in bytes.
    pub(super) length: u64,
}

/// A part of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Index of the record in its list.
    pub(super) record: usize,
    /// Number of the device to read.
    pub(super) source_device: u32,
    /// First byte to read.
    pub(super) source_offset: u64,
    /// First byte to write.
    pub(super) target_offset: u64,
    /// Number of bytes.
    pub(super) length: u64,
}

impl Run<'_> {
    /// The run's parts, each of which continues the one before it on the target.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        (self.first..).zip(self.records).map(|(index, record)| Part {
            record: index,
            source_device: record.source_device,
            // A sum that leaves 64 bits is an address that nothing has; whoever uses it finds that out.
            source_offset: record.source_offset_bytes.saturating_add(self.skip),
            target_offset: record.target_offset_bytes.saturating_add(self.skip),
            length: if self.records.len() == 1 { self.length } else { record.length_bytes },
        })
    }
}

/// Cuts a list into runs of about `cut_bytes`; a record that is not longer is never cut.
pub(super) fn cut<'r>(records: &'r [CopyRecord], cut_bytes: u64, mut act: impl FnMut(Run<'r>)) {
    let mut at = 0;
    while let Some(record) = records.get(at) {
        let (mut end, mut length) = (at + 1, record.length_bytes);
        if length > cut_bytes {
            let step = if records.len() > UNCUT_RECORDS { length } else { cut_bytes.max(length.div_ceil(MAX_PARTS)) };
            let mut skip = 0;
            while skip < length {
                let step = step.min(length - skip);
                act(Run { first: at, records: &records[at..end], skip, length: step });
                skip += step;
            }
        } else {
            while let Some(next) = records.get(end)
                && record.target_offset_bytes.checked_add(length) == Some(next.target_offset_bytes)
                && next.length_bytes <= cut_bytes - length
            {
                length += next.length_bytes;
                end += 1;
            }
            act(Run { first: at, records: &records[at..end], skip: 0, length });
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(target_offset_bytes: u64, length_bytes: u64) -> CopyRecord {
        CopyRecord { target_offset_bytes, source_offset_bytes: 7, length_bytes, source_device: 0, reserved: 0 }
    }

    fn runs(records: &[CopyRecord], cut_bytes: u64) -> Vec<(usize, u64)> {
        let mut runs = Vec::new();
        cut(records, cut_bytes, |run| runs.push((run.first, run.length)));
        runs
    }

    #[test]
    fn neighbours_on_the_target_are_one_run() {
        let records = [record(0, 4), record(4, 4), record(9, 1), record(10, 1)];
        assert_eq!(runs(&records, 100), [(0, 8), (2, 2)]);
        assert_eq!(runs(&records, 7), [(0, 4), (1, 4), (2, 2)]);
    }

    #[test]
    fn long_records_are_shared_in_a_bounded_number_of_parts() {
        assert_eq!(runs(&[record(0, 10)], 4), [(0, 4), (0, 4), (0, 2)]);
        assert_eq!(runs(&[record(0, u64::MAX)], 4).len(), 64);
        assert_eq!(runs(&vec![record(0, u64::MAX); 65], 4).len(), 65);
    }

    proptest! {
        #[test]
        fn every_byte_is_copied_once_and_in_order(
            lengths in proptest::collection::vec((0u64..40, 0u64..2), 0..80), cut_bytes in 1u64..50,
        ) {
            let mut records = Vec::new();
            let mut target = 0;
            for (length, gap) in lengths {
                records.push(record(target + gap, length));
                target += gap + length;
            }
            let wanted: Vec<(usize, u64)> = (0..).zip(&records)
                .flat_map(|(index, record)| (0..record.length_bytes).map(move |at| (index, record.target_offset_bytes + at)))
                .collect();
            let mut found = Vec::new();
            cut(&records, cut_bytes, |run| {
                let mut end = None;
                for part in run.parts() {
                    assert!(end.is_none_or(|end| end == part.target_offset));
                    end = Some(part.target_offset + part.length);
                    assert_eq!(part.source_offset - 7, part.target_offset - records[part.record].target_offset_bytes);
                    found.extend((0..part.length).map(|at| (part.record, part.target_offset + at)));
                }
                assert_eq!(run.parts().map(|part| part.length).sum::<u64>(), run.length);
            });
            prop_assert_eq!(found, wanted);
        }
    }
}
