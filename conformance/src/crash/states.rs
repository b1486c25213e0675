//! The states that a crash can leave: after every request with everything there, and in every interval between two flushes
//! with requests missing and writes torn between sectors.
//!
//! Requests that are in flight together never touch the same bytes (that is checked), so a state in which they arrive in another
//! order is one in which some are missing.

use super::trace::Trace;
use crate::runner::inprocess::{Disk, Disks};
use instar_exec::Storage;
use instar_exec::recording::Request;

/// A brief effort takes the whole number of samples only for images shorter than this, in bytes.
const BRIEF_BYTES: u64 = 1 << 20;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Up to this many requests in an interval, every combination is tried.
    pub exhaustive_requests: usize,
    /// How many states of other intervals, and of torn writes, are sampled.
    pub samples: u64,
    /// After how many requests a process is killed at most, spread over the operation; none: after every one.
    pub cuts_max: Option<usize>,
    /// Whether large images get fewer samples, so that all cases take about as long.
    pub is_brief: bool,
    /// Where sampling starts.
    pub seed: u64,
}

impl Effort {
    /// What `cargo test` does.
    pub const BRIEF: Self = Self { exhaustive_requests: 7, samples: 270, cuts_max: Some(24), is_brief: true, seed: 1 };
    /// What a night is for.
    pub const THOROUGH: Self =
        Self { exhaustive_requests: 12, samples: 2000, cuts_max: None, is_brief: false, seed: 1 };
}

/// What kind of state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything up to a request is there: the process was killed.
    Cut,
    /// Whole requests are missing.
    Dropped,
    /// Sectors are missing.
    Torn,
}

/// A state, and how it came to be.
#[derive(Debug)]
pub struct State {
    /// How.
    pub kind: Kind,
    /// The number of the last request that was made.
    pub request: usize,
    /// The bits that decided, or the seed.
    pub choice: u64,
    /// What is on the devices.
    pub disks: Disks,
}

/// Calls `visit` with every state of the effort; it says whether to go on.
pub(super) fn for_each(trace: &Trace, effort: &Effort, visit: &mut dyn FnMut(State) -> bool) {
    let mut explorer = Explorer {
        trace,
        effort,
        visit,
        durable: trace.run.disks(&trace.before),
        unflushed: Vec::new(),
        goes_on: true,
    };
    let mut now = explorer.durable.clone();
    let mut has_news = false;
    let changes = trace.requests.iter().filter(|request| request.changes().is_some()).count();
    let cut_every = effort.cuts_max.map_or(1, |cuts| changes.div_ceil(cuts.max(1))).max(1);
    let mut uncut = 0;
    for (index, request) in trace.requests.iter().enumerate() {
        if let Request::Flush(device) = request {
            if has_news {
                explorer.explore(index);
                has_news = false;
            }
            let flushed = |at: &usize| trace.requests[*at].changes() == Some(*device);
            let (done, rest): (Vec<usize>, Vec<usize>) = explorer.unflushed.iter().partition(|at| flushed(at));
            done.into_iter().for_each(|at| apply(&trace.requests[at], &mut explorer.durable, &mut |_| true));
            explorer.unflushed = rest;
        } else if request.changes().is_some() {
            apply(request, &mut now, &mut |_| true);
            explorer.unflushed.push(index);
            has_news = true;
            uncut += 1;
            if uncut == cut_every {
                uncut = 0;
                explorer.show(Kind::Cut, index, 0, now.clone());
            }
        }
        if !explorer.goes_on {
            return;
        }
    }
    if has_news {
        explorer.explore(trace.requests.len());
    }
}

/// Two requests in flight together that touch the same bytes, which the executor promises not to make.
pub(super) fn overlap(requests: &[Request]) -> Option<(usize, usize)> {
    let mut in_flight: Vec<usize> = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        if request.changes().is_none() {
            in_flight.clear();
            continue;
        }
        let touches = |other: &&usize| {
            let other = &requests[**other];
            match (request.range(), other.range()) {
                (Some((a, a_length)), Some((b, b_length))) => {
                    request.changes() == other.changes() && a < b + b_length && b < a + a_length
                }
                _ => false,
            }
        };
        if let Some(other) = in_flight.iter().find(touches) {
            return Some((*other, index));
        }
        in_flight.push(index);
    }
    None
}

/// Does a recorded request once more.
fn apply(request: &Request, storage: &mut dyn Storage, keeps: &mut dyn FnMut(u64) -> bool) {
    request.apply(storage, keeps).expect("what a disk in memory has done once, it does again");
}

struct Explorer<'a> {
    trace: &'a Trace,
    effort: &'a Effort,
    visit: &'a mut dyn FnMut(State) -> bool,
    durable: Disks,
    unflushed: Vec<usize>,
    goes_on: bool,
}

impl Explorer<'_> {
    fn show(&mut self, kind: Kind, request: usize, choice: u64, disks: Disks) {
        if self.goes_on {
            self.goes_on = (self.visit)(State { kind, request, choice, disks });
        }
    }

    /// Everything that may be there and may be missing before request number `at`.
    fn explore(&mut self, at: usize) {
        let count = self.unflushed.len();
        if count <= self.effort.exhaustive_requests {
            // All of them are there in a state that was shown already.
            for choice in 0..(1u64 << count) - 1 {
                let disks = self.state(&mut |place, _| choice >> place & 1 == 1);
                self.show(Kind::Dropped, at, choice, disks);
            }
        } else {
            for choice in 0..self.samples() {
                let mut dice = Dice::new(self.effort.seed, at, choice);
                let keep_of_8 = 1 + dice.next() % 7;
                let kept: Vec<bool> = (0..count).map(|_| dice.next() % 8 < keep_of_8).collect();
                let disks = self.state(&mut |place, _| kept[place]);
                self.show(Kind::Dropped, at, choice, disks);
            }
        }
        let sectors: u64 = self.unflushed.iter().map(|index| self.trace.requests[*index].sectors()).sum();
        if sectors == count as u64 {
            return;
        }
        for choice in 0..self.samples() {
            let mut dice = Dice::new(!self.effort.seed, at, choice);
            // Whole requests are there, missing or torn; of a torn one few sectors or many are missing.
            let fates: Vec<(u64, u64)> = (0..count).map(|_| (dice.next() % 3, 1 + dice.next() % 7)).collect();
            let disks = self.state(&mut |place, _| match fates[place] {
                (0, _) => true,
                (1, _) => false,
                (_, keep_of_8) => dice.next() % 8 < keep_of_8,
            });
            self.show(Kind::Torn, at, choice, disks);
        }
    }

    fn samples(&self) -> u64 {
        let bytes: u64 = self.durable.0.iter().map(Disk::stored_bytes).sum();
        let divisor = if self.effort.is_brief { 1 + bytes / BRIEF_BYTES } else { 1 };
        self.effort.samples.div_ceil(divisor)
    }

    /// What is durable, and of the rest the sectors that `keeps` names by the request's place in the interval.
    fn state(&self, keeps: &mut dyn FnMut(usize, u64) -> bool) -> Disks {
        let mut disks = self.durable.clone();
        for (place, index) in self.unflushed.iter().enumerate() {
            apply(&self.trace.requests[*index], &mut disks, &mut |sector| keeps(place, sector));
        }
        disks
    }
}

/// Numbers that only depend on where they are drawn (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, at: usize, choice: u64) -> Self {
        Self(seed ^ (at as u64).wrapping_mul(0xd134_2543_de82_ef95) ^ choice.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) >> 8
    }
}
