//! The crash harness: every case is carried out over disks that record, and every state that a crash could have left is judged.
//!
//! After a crash no file is corrupt (leaks are allowed), the overlay reads as before through the chain that its header names, and
//! the same command once more gives what it would have given uninterrupted.

mod faults;
mod host;
mod states;
mod trace;
mod verdict;

pub use faults::{Fault, FaultTally, fail_every_request, fail_every_request_of_the_command};
pub use host::{HostTally, Selection, fail_system_calls};
pub use states::{Effort, Kind, State};
pub use trace::{FileSet, Run, Trace};
pub use verdict::Judge;

use crate::case::{self, Case, Operation};
use std::fmt;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// After this many failures of one case the rest of its states say nothing new.
const FAILURES_MAX: usize = 3;

/// What was tried and found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases that were recorded.
    pub cases: u64,
    /// Requests that change something, in all cases.
    pub requests: u64,
    /// States with everything up to a request.
    pub cut: u64,
    /// States with requests missing.
    pub dropped: u64,
    /// States with torn writes.
    pub torn: u64,
    /// How long it took, on one processor.
    pub time: Duration,
    /// One text for each state that failed, at most a few for each case.
    pub failures: Vec<String>,
}

impl Tally {
    /// States in all.
    pub fn states(&self) -> u64 {
        self.cut + self.dropped + self.torn
    }

    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.requests += other.requests;
        self.cut += other.cut;
        self.dropped += other.dropped;
        self.torn += other.torn;
        self.time += other.time;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cases, requests, seconds) = (self.cases, self.requests, self.time.as_secs());
        writeln!(
            f,
            "cases recorded: {cases}, with {requests} requests that change something, in {seconds} s of one processor"
        )?;
        writeln!(
            f,
            "crash states tried: {} (cut {}, requests missing {}, writes torn {})",
            self.states(),
            self.cut,
            self.dropped,
            self.torn
        )?;
        write!(f, "states failed: {}", self.failures.len())?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

/// Tries the states of one case; a case whose command fails has none.
///
/// # Errors
/// If the fixture cannot be used.
pub fn try_case(case: &Case, effort: &Effort) -> Result<Tally, String> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let Some(trace) = Trace::record(case)? else { return Ok(tally) };
    tally.cases = 1;
    tally.requests = trace.requests.iter().filter(|request| request.changes().is_some()).count() as u64;
    if let Some((first, second)) = states::overlap(&trace.requests) {
        tally
            .failures
            .push(format!("{}: requests {first} and {second} are in flight together and overlap", trace.name));
    }
    let judge = Judge::new(&trace);
    states::for_each(&trace, effort, &mut |state| {
        match state.kind {
            Kind::Cut => tally.cut += 1,
            Kind::Dropped => tally.dropped += 1,
            Kind::Torn => tally.torn += 1,
        }
        if let Err(finding) = judge.judge(state.disks) {
            let (kind, request, choice) = (state.kind, state.request, state.choice);
            let seed = effort.seed;
            let name = &trace.name;
            tally
                .failures
                .push(format!("{name}: {kind:?} at request {request}, choice {choice:#x}, seed {seed}: {finding}"));
        }
        tally.failures.len() < FAILURES_MAX
    });
    tally.time = start.elapsed();
    Ok(tally)
}

/// Tries the states of all cases whose names hold `filter`, on all processors. `seen` is told of every case.
///
/// # Errors
/// If recordings or fixtures cannot be used.
pub fn try_all(filter: &str, effort: &Effort, seen: &(dyn Fn(&str, &Tally) + Sync)) -> Result<Tally, String> {
    let mut cases = case::load_all(Operation::Commit).map_err(|error| error.to_string())?;
    cases.extend(case::load_all(Operation::Rebase).map_err(|error| error.to_string())?);
    cases.retain(|case| case.name.contains(filter));
    let next = AtomicUsize::new(0);
    let total = Mutex::new((Tally::default(), Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = try_case(case, effort);
            if let Ok(tally) = &result {
                seen(&case.name, tally);
            }
            let mut total = total.lock().expect("no panic holds it");
            match result {
                Ok(tally) => total.0.add(tally),
                Err(error) => total.1.push(error),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let (tally, errors) = total.into_inner().expect("no panic holds it");
    if errors.is_empty() { Ok(tally) } else { Err(errors.join("\n")) }
}
