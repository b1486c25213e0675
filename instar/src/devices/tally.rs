//! Counts what a guest asks of its devices, for those who follow the log. Where nobody does nothing is counted.

use tracing::{Level, debug, enabled, info, warn};

use super::executor::Outcome;
use super::request::{Action, Request};
use instar_abi::block::status;

/// What was asked for so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
    copied_bytes: u64,
    compared_bytes: u64,
    zeroed_bytes: u64,
    barriers: u64,
}

/// The counts of all devices.
#[derive(Debug)]
pub(super) struct Tally {
    is_followed: bool,
    batches: u64,
    total: Counts,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { is_followed: enabled!(Level::INFO), batches: 0, total: Counts::default() }
    }

    /// Counts a batch of one device, with its outcomes.
    pub(super) fn count(&mut self, device: usize, requests: &[Request], outcomes: &[Outcome]) {
        if !self.is_followed {
            return;
        }
        let mut batch = Counts::default();
        requests.iter().for_each(|request| batch.count(&request.action));
        for outcome in outcomes.iter().filter(|outcome| outcome.status != status::OK) {
            warn!(device, errno = outcome.errno, "request failed");
        }
        let Counts { requests, read_bytes, written_bytes, copied_bytes, compared_bytes, zeroed_bytes, barriers } =
            batch;
        debug!(
            device,
            requests, read_bytes, written_bytes, copied_bytes, compared_bytes, zeroed_bytes, barriers, "batch"
        );
        self.batches += 1;
        self.total.add(&batch);
    }

    /// Says what it came to.
    pub(super) fn tell(&self) {
        let Counts { requests, read_bytes, written_bytes, copied_bytes, compared_bytes, zeroed_bytes, barriers } =
            self.total;
        let batches = self.batches;
        info!(
            batches,
            requests,
            read_bytes,
            written_bytes,
            copied_bytes,
            compared_bytes,
            zeroed_bytes,
            barriers,
            "requests served"
        );
    }
}

impl Counts {
    fn count(&mut self, action: &Action) {
        let lengths = |ranges: &[super::request::Range]| sum(ranges.iter().map(|range| range.length));
        self.requests += 1;
        let (counter, bytes) = match action {
            Action::Read { spans, .. } => (&mut self.read_bytes, sum(spans.iter().map(|span| span.length as u64))),
            Action::Write { spans, .. } => (&mut self.written_bytes, sum(spans.iter().map(|span| span.length as u64))),
            Action::Copy(records) => (&mut self.copied_bytes, sum(records.iter().map(|record| record.length_bytes))),
            Action::Compare(records, _) => {
                (&mut self.compared_bytes, sum(records.iter().map(|record| record.length_bytes)))
            }
            Action::WriteZeroes { ranges, .. } | Action::Discard(ranges) => (&mut self.zeroed_bytes, lengths(ranges)),
            Action::Flush => (&mut self.barriers, 1),
            Action::Resize(_) | Action::Unknown => return,
        };
        *counter = counter.saturating_add(bytes);
    }

    fn add(&mut self, other: &Self) {
        let Self { requests, read_bytes, written_bytes, copied_bytes, compared_bytes, zeroed_bytes, barriers } = other;
        for (sum, more) in [
            (&mut self.requests, requests),
            (&mut self.read_bytes, read_bytes),
            (&mut self.written_bytes, written_bytes),
            (&mut self.copied_bytes, copied_bytes),
            (&mut self.compared_bytes, compared_bytes),
            (&mut self.zeroed_bytes, zeroed_bytes),
            (&mut self.barriers, barriers),
        ] {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// The lengths come from a guest and may be any.
fn sum(lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(0, u64::saturating_add)
}
