//! Carries out batches of requests: what stands between two barriers in any order and, where it is much, in parallel.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use instar_abi::block::{CompareRecord, ZEROS, status};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::backend::{Backend, end_of};
use super::chain::Span;
use super::codec_machines::CodecMachines;
use super::compare::Comparer;
use super::copy::{Copier, Failed};
use super::pace::Pace;
use super::pack;
use super::probes::{PROBE_BYTES, PROBED_TOGETHER};
use super::request::{Action, Range, Request};
use super::runs::{self, Run};
use super::throttle::Throttle;
use super::unpack::{self, Clusters};
use super::zero;
use crate::vm::DmaMemory;

/// How many threads work on one batch.
const WORKERS: usize = 2;
/// A stretch with less work than this, counted in bytes, is not worth a thread.
const PARALLEL_BYTES: u64 = 4 << 20;
/// What one request or record costs beside its bytes, counted in bytes.
const PIECE_COST_BYTES: u64 = 8 << 10;
/// How many bytes could be copied while one is unpacked.
const UNPACKING_COST: u64 = 8;
/// How many bytes could be copied while one is packed.
const PACKING_COST: u64 = 32;
/// About how much of a list of copies one thread does in one go, so that several can share it.
const CUT_BYTES: u64 = 16 << 20;
/// How much of a comparison one thread does in one go, at most; at least one unit.
const COMPARED_TOGETHER_BYTES: u64 = 8 << 20;
/// Length of a part where there is a limit, in pieces that the limit lets through: some tenths of a second.
const PIECES_A_PART: u64 = 8;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// One of [`status`].
    pub(super) status: u8,
    /// The system's error number, or 0.
    pub(super) errno: i32,
    /// Which record of a list failed, or 0.
    pub(super) record: u32,
}

impl Outcome {
    pub(super) const OK: Self = Self { status: status::OK, errno: 0, record: 0 };

    fn failed(error: &io::Error, record: usize) -> Self {
        Self {
            status: status::IO_ERROR,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            record: u32::try_from(record).unwrap_or(u32::MAX),
        }
    }
}

/// The devices and the memory that a batch works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Executor<'a> {
    pub(super) backends: &'a [Backend<'a>],
    /// The device whose doorbell rang.
    pub(super) own: usize,
    pub(super) memory: &'a DmaMemory,
    /// Limits what is written, if there is a limit.
    pub(super) throttle: Option<&'a Throttle>,
    /// Machines that pack and unpack, where there are some.
    pub(super) codec_machines: Option<&'a CodecMachines>,
    pub(super) kept: &'a Kept,
}

/// What stays from one batch to the next.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Counts the bytes that have been copied from devices in front of that whose doorbell rang, where the upper layers are.
    pub(super) copied_bytes: AtomicU64,
    /// Whether what was compared last differed.
    pub(super) differed: AtomicBool,
}

/// Is told how much has been copied.
pub(super) type Watcher<'a> = &'a mut dyn FnMut(u64);

/// A part of a request that one thread does in one go.
#[derive(Clone, Copy, Debug)]
enum Piece<'r> {
    Whole(&'r Action),
    Copy(Run<'r>),
    /// A part of a comparison, and where its first verdict goes.
    Compare(&'r CompareRecord, Range, GuestAddress),
    Unpack(Clusters<'r>),
    Pack(pack::Clusters),
}

#[derive(Clone, Copy, Debug)]
struct Job<'r> {
    request: usize,
    record: usize,
    piece: Piece<'r>,
    cost: u64,
}

/// What a thread keeps between pieces.
#[derive(Debug)]
struct Tools<'a> {
    copier: Copier,
    comparer: Comparer<'a>,
}

impl Executor<'_> {
    /// Carries out a batch; the outcomes are in the requests' order.
    pub(super) fn execute(&self, requests: &[Request], watcher: Watcher<'_>) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::OK; requests.len()];
        let mut start = 0;
        for (at, request) in requests.iter().enumerate() {
            if request.action.is_barrier() {
                self.stretch(&requests[start..at], &mut outcomes[start..at], watcher);
                let pace = Pace::new(None, &self.kept.copied_bytes, None);
                if let Err(error) = self.whole(&request.action, &pace) {
                    outcomes[at] = Outcome::failed(&error, 0);
                }
                start = at + 1;
            }
        }
        self.stretch(&requests[start..], &mut outcomes[start..], watcher);
        self.write_through(requests, &mut outcomes);
        outcomes
    }

    /// Makes durable what the batch has written, where that must not wait for a request.
    fn write_through(&self, requests: &[Request], outcomes: &mut [Outcome]) {
        let Ok(own) = self.own() else { return };
        if !own.writes_through() || !requests.iter().any(|request| request.action.changes_file()) {
            return;
        }
        if let Err(error) = own.flush() {
            for (request, outcome) in requests.iter().zip(outcomes) {
                if request.action.changes_file() {
                    *outcome = Outcome::failed(&error, 0);
                }
            }
        }
    }

    /// Carries out requests without a barrier among them.
    fn stretch(&self, requests: &[Request], outcomes: &mut [Outcome], watcher: Watcher<'_>) {
        let mut jobs = Vec::new();
        for (request, Request { action, .. }) in requests.iter().enumerate() {
            match action {
                Action::Unknown => outcomes[request] = Outcome { status: status::UNSUPPORTED, ..Outcome::OK },
                Action::Unpack(_) | Action::Pack(_) if self.codec_machines.is_none() => {
                    outcomes[request] = Outcome { status: status::UNSUPPORTED, ..Outcome::OK };
                }
                action => cut(request, action, self.cut_bytes(), &mut jobs),
            }
        }
        let cost = jobs.iter().fold(0, |sum: u64, job| sum.saturating_add(job.cost));
        let failures = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        let work = |watcher| {
            let mut tools = Tools { comparer: Comparer::new(&self.kept.differed), copier: Copier::default() };
            let mut pace = Pace::new(self.throttle, &self.kept.copied_bytes, watcher);
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err((record, error)) = self.piece(job, &mut tools, &mut pace) {
                    let failure = (job.request, Outcome::failed(&error, record));
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                }
            }
        };
        // Noting what would be done is no work that threads could share.
        let rehearses = self.own().is_ok_and(|own| own.rehearsal().is_some());
        if rehearses || cost < PARALLEL_BYTES || jobs.len() < 2 {
            work(Some(watcher));
        } else {
            thread::scope(|scope| {
                for _ in 1..self.workers(&jobs) {
                    // A thread that the system does not give is done without: the others do its pieces.
                    let _ = thread::Builder::new().spawn_scoped(scope, || work(None));
                }
                work(Some(&mut *watcher));
            });
            // The last piece may have been another worker's, who has nobody to tell.
            watcher(self.kept.copied_bytes.load(Ordering::Relaxed));
        }
        for (request, outcome) in failures.into_inner().unwrap_or_else(PoisonError::into_inner) {
            outcomes[request] = outcome;
        }
    }

    /// How many threads work on jobs: for packing and unpacking as many as there are machines.
    fn workers(&self, jobs: &[Job<'_>]) -> usize {
        let is_for_machines = jobs.iter().any(|job| matches!(job.piece, Piece::Unpack(_) | Piece::Pack(_)));
        self.codec_machines.filter(|_| is_for_machines).map_or(WORKERS, CodecMachines::slot_count)
    }

    /// Where there is a limit parts are short, so that all workers are done at about the same time.
    fn cut_bytes(&self) -> u64 {
        self.throttle.map_or(CUT_BYTES, |throttle| (throttle.piece_bytes() * PIECES_A_PART).min(CUT_BYTES))
    }

    fn piece(&self, job: &Job<'_>, tools: &mut Tools<'_>, pace: &mut Pace<'_>) -> Result<(), Failed> {
        match job.piece {
            Piece::Whole(action) => self.whole(action, pace).map_err(|error| (0, error)),
            Piece::Copy(run) => tools.copier.copy(self.backends, self.own, &run, pace),
            Piece::Unpack(clusters) => match self.codec_machines {
                Some(codec_machines) => clusters.unpack(self.backends, self.own, codec_machines, pace),
                None => Err((clusters.first, io::Error::from_raw_os_error(libc::ENODEV))),
            },
            Piece::Pack(clusters) => match self.codec_machines {
                Some(machines) => clusters.pack(self.memory, machines).map_err(|error| (0, error)),
                None => Err((0, io::Error::from_raw_os_error(libc::ENODEV))),
            },
            Piece::Compare(record, part, place) => {
                self.compare(record, part, place, &mut tools.comparer).map_err(|error| (job.record, error))
            }
        }
    }

    fn compare(
        &self,
        record: &CompareRecord,
        part: Range,
        place: GuestAddress,
        comparer: &mut Comparer<'_>,
    ) -> io::Result<()> {
        let other = match record.other_device {
            ZEROS => None,
            device => Some((self.other(device)?, end_of(record.other_offset_bytes, part.offset)?)),
        };
        let own = (self.own()?, end_of(record.own_offset_bytes, part.offset)?);
        let verdicts = comparer.compare(own, other, part.length, record.unit_bytes.into())?;
        self.memory.write_slice(verdicts, place).map_err(|_| fault())
    }

    fn whole(&self, action: &Action, pace: &Pace<'_>) -> io::Result<()> {
        let own = self.own()?;
        match action {
            Action::Read { offset, spans, exact } => {
                if *exact {
                    check_inside(own, *offset, spans)?;
                }
                self.each(*offset, spans, |offset, slice| own.read(offset, slice))
            }
            Action::Write { offset, spans, exact } => {
                if *exact {
                    check_inside(own, *offset, spans)?;
                }
                self.each(*offset, spans, |offset, slice| paced_write(own, offset, slice, pace))
            }
            Action::Flush => own.flush(),
            Action::WriteZeroes { ranges, exact } => ranges.iter().try_for_each(|range| {
                if *exact && end_of(range.offset, range.length)? > own.length_bytes() {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                zero::write_zeroes(own, range.offset, range.length, range.may_unmap)
            }),
            Action::Discard(ranges) => {
                ranges.iter().try_for_each(|range| zero::discard(own, range.offset, range.length))
            }
            Action::Resize(length) => own.resize(*length),
            Action::Copy(_) | Action::Compare(..) | Action::Unpack(_) | Action::Pack(_) | Action::Unknown => Ok(()),
        }
    }

    fn each(
        &self,
        offset: u64,
        spans: &[Span],
        mut transfer: impl FnMut(u64, &VolatileSlice<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = offset;
        for span in spans {
            let slice = GuestMemoryBackend::get_slice(self.memory, span.address, span.length).map_err(|_| fault())?;
            transfer(at, &slice)?;
            at = end_of(at, span.length as u64)?;
        }
        Ok(())
    }

    fn own(&self) -> io::Result<&Backend<'_>> {
        self.backends.get(self.own).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn other(&self, device: u32) -> io::Result<&Backend<'_>> {
        let device = usize::try_from(device).ok().and_then(|device| self.backends.get(device));
        device.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }
}

/// Writes a piece of guest memory, bit by bit where there is a limit.
fn paced_write(own: &Backend<'_>, offset: u64, slice: &VolatileSlice<'_>, pace: &Pace<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < slice.len() {
        let rest = (slice.len() - done) as u64;
        let count = usize::try_from(pace.piece_bytes(rest)).unwrap_or(slice.len());
        pace.wait_for(count as u64);
        own.write(offset.saturating_add(done as u64), &slice.subslice(done, count).map_err(|_| fault())?)?;
        done += count;
    }
    Ok(())
}

fn cut<'r>(request: usize, action: &'r Action, cut_bytes: u64, jobs: &mut Vec<Job<'r>>) {
    match action {
        Action::Copy(records) => runs::cut(records, cut_bytes, |run| {
            let cost = run.length.saturating_add(PIECE_COST_BYTES.saturating_mul(run.parts().count() as u64));
            jobs.push(Job { request, record: run.first, piece: Piece::Copy(run), cost });
        }),
        Action::Compare(records, verdicts) => {
            let mut place = *verdicts;
            for (record, compare) in records.iter().enumerate() {
                let unit_bytes = u64::from(compare.unit_bytes).max(1);
                let units = if unit_bytes > PROBE_BYTES { PROBED_TOGETHER } else { u64::MAX };
                let step = (COMPARED_TOGETHER_BYTES / unit_bytes).clamp(1, units) * unit_bytes;
                let mut offset = 0;
                while offset < compare.length_bytes {
                    let length = step.min(compare.length_bytes - offset);
                    let part = Range { offset, length, may_unmap: false };
                    let cost = length.saturating_add(PIECE_COST_BYTES);
                    jobs.push(Job { request, record, piece: Piece::Compare(compare, part, place), cost });
                    // The parser has seen that all verdicts have their places.
                    place = GuestAddress(place.0.saturating_add(length.div_ceil(unit_bytes)));
                    offset += length;
                }
            }
        }
        Action::Unpack(records) => unpack::cut(records, |clusters, cost| {
            let cost = cost.saturating_mul(UNPACKING_COST);
            jobs.push(Job { request, record: clusters.first, piece: Piece::Unpack(clusters), cost });
        }),
        Action::Pack(clusters) => jobs.extend(clusters.parts().map(|part| {
            let cost = (part.length() as u64).saturating_mul(PACKING_COST);
            Job { request, record: 0, piece: Piece::Pack(part), cost }
        })),
        action => {
            let cost = match action {
                Action::Read { spans, .. } | Action::Write { spans, .. } => {
                    spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.length as u64))
                }
                _ => 0,
            };
            let piece = Piece::Whole(action);
            jobs.push(Job { request, record: 0, piece, cost: cost.saturating_add(PIECE_COST_BYTES) });
        }
    }
}

fn check_inside(backend: &Backend<'_>, offset: u64, spans: &[Span]) -> io::Result<()> {
    let length = spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.length as u64));
    // The capacity is stated in whole sectors: the last one may stick out.
    let capacity = backend.length_bytes().next_multiple_of(instar_abi::block::SECTOR_BYTES);
    if end_of(offset, length)? <= capacity { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}
