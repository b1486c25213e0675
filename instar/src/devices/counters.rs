//! Counts what devices were asked for and have done. The guest has no part in it but by asking.

use instar_abi::block::status;

use super::executor::Outcome;
use super::request::{Action, Request};

/// Counts of a run, or of several together. Bytes are those of requests that were carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads into the guest: tables, and data that is compressed or encrypted.
    pub reads: u64,
    /// Writes from the guest.
    pub writes: u64,
    /// Lists of copies that the host carries out.
    pub copies: u64,
    /// Lists of comparisons that the host carries out.
    pub compares: u64,
    /// Lists of packed clusters that machines beside the guest's unpack.
    pub unpacks: u64,
    /// Lists of clusters that machines beside the guest's pack.
    pub packs: u64,
    /// Zeroed ranges.
    pub zeroes: u64,
    /// Ranges that are given back.
    pub discards: u64,
    /// Changes of a file's length.
    pub resizes: u64,
    /// Barriers: everything before is durable.
    pub barriers: u64,
    /// Requests that failed, or that no device knows; they count above as well.
    pub failures: u64,
    /// Bytes that entered the guest.
    pub read_bytes: u64,
    /// Bytes that came from the guest.
    pub written_bytes: u64,
    /// Bytes that the host copied from file to file.
    pub copied_bytes: u64,
    /// Bytes of disk that the host compared with others, or with zeros.
    pub compared_bytes: u64,
    /// Bytes that came out of machines that unpack.
    pub unpacked_bytes: u64,
    /// Bytes that went into machines that pack.
    pub packed_bytes: u64,
    /// Bytes that were made zeros.
    pub zeroed_bytes: u64,
}

impl Counters {
    /// Number of fields.
    pub const COUNT: usize = 18;

    /// All fields with their names, in a fixed order.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, u64); Self::COUNT] {
        let Self {
            reads,
            writes,
            copies,
            compares,
            unpacks,
            packs,
            zeroes,
            discards,
            resizes,
            barriers,
            failures,
            read_bytes,
            written_bytes,
            copied_bytes,
            compared_bytes,
            unpacked_bytes,
            packed_bytes,
            zeroed_bytes,
        } = *self;
        [
            ("reads", reads),
            ("writes", writes),
            ("copies", copies),
            ("compares", compares),
            ("unpacks", unpacks),
            ("packs", packs),
            ("zeroes", zeroes),
            ("discards", discards),
            ("resizes", resizes),
            ("barriers", barriers),
            ("failures", failures),
            ("read_bytes", read_bytes),
            ("written_bytes", written_bytes),
            ("copied_bytes", copied_bytes),
            ("compared_bytes", compared_bytes),
            ("unpacked_bytes", unpacked_bytes),
            ("packed_bytes", packed_bytes),
            ("zeroed_bytes", zeroed_bytes),
        ]
    }

    /// All fields in the order of [`Counters::fields`].
    pub fn fields_mut(&mut self) -> [&mut u64; Self::COUNT] {
        [
            &mut self.reads,
            &mut self.writes,
            &mut self.copies,
            &mut self.compares,
            &mut self.unpacks,
            &mut self.packs,
            &mut self.zeroes,
            &mut self.discards,
            &mut self.resizes,
            &mut self.barriers,
            &mut self.failures,
            &mut self.read_bytes,
            &mut self.written_bytes,
            &mut self.copied_bytes,
            &mut self.compared_bytes,
            &mut self.unpacked_bytes,
            &mut self.packed_bytes,
            &mut self.zeroed_bytes,
        ]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (own, (_, others)) in self.fields_mut().into_iter().zip(other.fields()) {
            *own = own.saturating_add(others);
        }
    }

    /// Counts a request that has been answered.
    pub(super) fn note(&mut self, request: &Request, outcome: Outcome) {
        let (count, bytes, length) = match &request.action {
            Action::Read { spans, .. } => (&mut self.reads, &mut self.read_bytes, sum(spans, |it| it.length as u64)),
            Action::Write { spans, .. } => {
                (&mut self.writes, &mut self.written_bytes, sum(spans, |it| it.length as u64))
            }
            Action::Copy(records) => (&mut self.copies, &mut self.copied_bytes, sum(records, |it| it.length_bytes)),
            Action::Compare(records, _) => {
                (&mut self.compares, &mut self.compared_bytes, sum(records, |it| it.length_bytes))
            }
            Action::Unpack(records) => {
                (&mut self.unpacks, &mut self.unpacked_bytes, sum(records, |it| it.length_bytes.into()))
            }
            Action::Pack(clusters) => (&mut self.packs, &mut self.packed_bytes, clusters.length() as u64),
            Action::WriteZeroes { ranges, .. } => {
                (&mut self.zeroes, &mut self.zeroed_bytes, sum(ranges, |range| range.length))
            }
            Action::Discard(_) => (&mut self.discards, &mut 0, 0),
            Action::Resize(_) => (&mut self.resizes, &mut 0, 0),
            Action::Flush => (&mut self.barriers, &mut 0, 0),
            Action::Unknown => (&mut 0, &mut 0, 0),
        };
        *count = count.saturating_add(1);
        if outcome.status == status::OK {
            *bytes = bytes.saturating_add(length);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }
}

fn sum<T>(items: &[T], bytes: impl Fn(&T) -> u64) -> u64 {
    items.iter().fold(0, |sum: u64, item| sum.saturating_add(bytes(item)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::request::Answer;
    use instar_abi::block::CopyRecord;
    use vm_memory::GuestAddress;

    #[test]
    fn bytes_count_only_where_the_request_was_carried_out() {
        let copy = CopyRecord {
            target_offset_bytes: 0,
            source_offset_bytes: 0,
            length_bytes: u64::MAX,
            source_device: 1,
            reserved: 0,
        };
        let request = |action| Request { head: 0, action, answer: Answer::Byte(GuestAddress(0)), writable_bytes: 0 };
        let ended = |status| Outcome { status, errno: 0, record: 0 };
        let mut counters = Counters::default();
        counters.note(&request(Action::Copy(vec![copy.clone(), copy.clone()])), ended(status::OK));
        counters.note(&request(Action::Copy(vec![copy])), ended(status::IO_ERROR));
        counters.note(&request(Action::Flush), ended(status::OK));
        counters.note(&request(Action::Unknown), ended(status::UNSUPPORTED));
        let expected = Counters { copies: 2, copied_bytes: u64::MAX, barriers: 1, failures: 2, ..Counters::default() };
        assert_eq!(counters, expected);
        counters.add(&expected);
        assert_eq!((counters.copies, counters.copied_bytes, counters.barriers), (4, u64::MAX, 2));
    }
}
