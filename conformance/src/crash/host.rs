//! The built program, of which one system call fails: it must end as it should, and leave what a crash may leave.

use super::trace::{FileSet, Trace, read_files};
use super::verdict::Judge;
use crate::calls::{self, Call, Ending, FAILING, Injection, NEVER_FAILING};
use crate::case::Case;
use crate::fixture::Workspace;
use crate::runner::{Product, Program, QemuImg, RunOutput, TIME_LIMIT, format_of};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

/// The words that every message starts with, and those of one that does not end the program.
const NAME: &str = "instar: ";
const WARNING: &str = "instar: warning: ";
/// What a message says instead of the system's words: a machine that stopped, the device that there is none without, and the
/// words of qemu-img, which are all that it says of a rebase that cannot read.
const CAUSES: [&str; 3] = ["the sandbox stopped: ", "'/dev/kvm'", "error while reading from "];

/// Which calls of a kind fail: the first and the last of the program and of the first process that it starts, and of the others
/// one in so many.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// 1 for all of them.
    pub one_in: usize,
}

/// What was tried and found.
#[derive(Clone, Debug, Default)]
pub struct HostTally {
    /// Calls that the undisturbed program makes and that can fail.
    pub calls: usize,
    /// Calls that were made to fail.
    pub injected: usize,
    /// How many of these runs ended with a failure.
    pub refused: usize,
    /// Calls that were not reached: the number of calls differs a little from run to run.
    pub missed: usize,
    /// One text for each that did not end well.
    pub failures: Vec<String>,
}

/// One call that fails, in one way.
#[derive(Clone, Copy, Debug)]
struct Point {
    process: usize,
    kind: usize,
    nth: usize,
    injection: Injection,
    ending: Ending,
}

/// How many calls of each kind each process has made.
type Counts = BTreeMap<(usize, usize), usize>;

/// Makes system calls of a case's command fail, one a run. The program runs for real: with KVM and on files.
///
/// # Errors
/// If the fixture or the program cannot be used, or the program makes a call of which nobody has said what follows.
pub fn fail_system_calls(case: &Case, product: &Product, selection: Selection) -> Result<HostTally, String> {
    let Some(trace) = Trace::record(case)? else { return Ok(HostTally::default()) };
    let judge = Judge::new(&trace);
    let overlay = trace.overlay.clone();
    let checker = QemuImg::installed().pop();
    let trial = Trial { case, product, judge: &judge, before: &trace.before, overlay, checker };
    let (counts, undisturbed) = trial.count()?;
    let points = select(&counts, selection);
    let next = AtomicUsize::new(0);
    let total = Mutex::new(HostTally { calls: counts.values().sum(), ..HostTally::default() });
    let work = || {
        while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = trial.one(point, &undisturbed);
            let mut total = total.lock().expect("no panic holds it");
            match found {
                Ok(None) => total.missed += 1,
                Ok(Some(rc)) => {
                    total.injected += 1;
                    total.refused += usize::from(rc != 0);
                }
                Err(finding) => {
                    total.injected += 1;
                    let Point { process, kind, nth, injection, .. } = point;
                    let name = FAILING[*kind].name;
                    let text = format!("{}: {name} {nth} of process {process}, {injection:?}: {finding}", case.name);
                    total.failures.push(text);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    Ok(total.into_inner().expect("no panic holds it"))
}

fn select(counts: &Counts, selection: Selection) -> Vec<Point> {
    let mut points = Vec::new();
    for ((process, kind), count) in counts {
        let first = FAILING[*kind].first.filter(|_| *process == 0);
        for (way, (injection, ending)) in FAILING[*kind].ways.iter().enumerate() {
            let is_edge = |nth: usize| *process < 2 && (nth == 0 || nth + 1 == *count);
            let chosen = |nth: &usize| is_edge(*nth) || (nth + way + 1).is_multiple_of(selection.one_in);
            points.extend((0..*count).filter(chosen).map(|nth| Point {
                process: *process,
                kind: *kind,
                nth,
                injection: *injection,
                ending: first.filter(|_| nth == 0).unwrap_or(*ending),
            }));
        }
    }
    points
}

struct Trial<'a> {
    case: &'a Case,
    product: &'a Product,
    judge: &'a Judge<'a>,
    before: &'a FileSet,
    overlay: PathBuf,
    checker: Option<QemuImg>,
}

impl Trial<'_> {
    /// Runs the program undisturbed and counts its calls.
    fn count(&self) -> Result<(Counts, RunOutput), String> {
        let mut counts = Counts::new();
        let mut unknown = None;
        let workspace = Workspace::unpack(&self.case.fixture).map_err(|error| error.to_string())?;
        let output = self.run(workspace.path(), &mut |call| {
            match calls::failing(call) {
                Some(kind) => *counts.entry((call.process, kind)).or_default() += 1,
                None if NEVER_FAILING.iter().any(|(number, _)| *number == call.number) => {}
                None => unknown = Some(*call),
            }
            None
        })?;
        match unknown {
            Some(call) => Err(format!("nobody has said what follows if {call:x?} fails")),
            None if output.rc != Some(0) => Err(format!("undisturbed, the command fails: {output:?}")),
            None => Ok((counts, output)),
        }
    }

    fn run(&self, folder: &Path, decide: &mut dyn FnMut(&Call) -> Option<Injection>) -> Result<RunOutput, String> {
        let mut command = self.product.case_command(self.case, folder);
        calls::run(&mut command, TIME_LIMIT, decide).map_err(|error| error.to_string())
    }

    /// One run in which one call fails; gives the exit status, or nothing if the call was not made.
    fn one(&self, point: &Point, undisturbed: &RunOutput) -> Result<Option<i32>, String> {
        let workspace = Workspace::unpack(&self.case.fixture).map_err(|error| error.to_string())?;
        let folder = workspace.path();
        let mut seen = 0;
        let mut is_reached = false;
        let output = self.run(folder, &mut |call| {
            if call.process != point.process || calls::failing(call) != Some(point.kind) {
                return None;
            }
            seen += 1;
            let now = seen == point.nth + 1;
            is_reached |= now;
            now.then_some(point.injection)
        })?;
        let rc = judge_ending(&output, undisturbed, if is_reached { point.ending } else { Ending::Succeeds })?;
        if let Injection::Errno(errno) = point.injection
            && rc != 0
        {
            judge_words(&output.stderr, errno, folder)?;
        }
        self.judge_left(folder, rc)?;
        Ok(is_reached.then_some(rc))
    }

    /// Judges the files, runs the command once more where it has failed, and judges again.
    fn judge_left(&self, folder: &Path, rc: i32) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        let files = read_files(folder).map_err(failed)?;
        // Once the overlay is removed there is nothing left to be done, whatever fails then.
        if rc == 0 || !files.contains_key(&self.overlay) {
            return self.judge.judge_completion(&files);
        }
        let is_untouched = files.len() == self.before.len()
            && files.iter().all(|(name, disk)| self.before.get(name).is_some_and(|before| before.equals(disk)));
        if is_untouched {
            return Ok(());
        }
        self.judge.judge_files(&files)?;
        self.check(folder, &files)?;
        let again = self.product.run_case(self.case, folder).map_err(failed)?;
        if again.rc != Some(0) {
            return Err(format!("the same command once more fails: {again:?}"));
        }
        let files = read_files(folder).map_err(failed)?;
        self.judge.judge_completion(&files).map_err(|finding| format!("after the same command once more: {finding}"))
    }

    /// What an installed qemu-img says of the qcow2 images that are not marked dirty.
    fn check(&self, folder: &Path, files: &FileSet) -> Result<(), String> {
        /// Where a header has its incompatible features, and the bit for "dirty".
        const FEATURES: u64 = 79;
        const DIRTY: u8 = 1;
        /// `qemu-img check`: clusters are leaked, nothing else.
        const LEAKS: i32 = 3;
        let Some(checker) = &self.checker else { return Ok(()) };
        for (name, disk) in files {
            let Some(name) = name.to_str().filter(|name| format_of(name) == Some("qcow2")) else { continue };
            let mut features = [0];
            disk.read(FEATURES, &mut features);
            if features[0] & DIRTY != 0 {
                continue;
            }
            let said = checker.ask(folder, &["check", "-f", "qcow2", name]).map_err(|error| error.to_string())?;
            if !matches!(said.rc, Some(0 | LEAKS)) {
                return Err(format!("qemu-img check of {name}: {}", String::from_utf8_lossy(&said.stdout)));
            }
        }
        Ok(())
    }
}

/// Judges exit status and channels; gives the status.
fn judge_ending(output: &RunOutput, undisturbed: &RunOutput, ending: Ending) -> Result<i32, String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let ended = || format!("exit status {:?}, standard error {said:?}", output.rc);
    let mut lines = said.lines().filter(|line| !line.starts_with(WARNING));
    match (output.rc, ending) {
        (Some(0), Ending::Either | Ending::Succeeds) => {
            let is_silent = lines.next().is_none() && output.stdout == undisturbed.stdout;
            if is_silent { Ok(0) } else { Err(ended()) }
        }
        (Some(1), Ending::Either | Ending::Fails) => {
            let is_told = lines.next().is_some_and(|line| line.starts_with(NAME)) && lines.next().is_none();
            if is_told { Ok(1) } else { Err(ended()) }
        }
        _ => Err(ended()),
    }
}

/// A message names the cause, or the file that it was about.
fn judge_words(stderr: &[u8], errno: i32, folder: &Path) -> Result<(), String> {
    let said = String::from_utf8_lossy(stderr);
    let cause = io::Error::from_raw_os_error(errno).to_string();
    let cause = cause.split(" (os error").next().unwrap_or_default();
    let files = read_files(folder).map_err(|error| error.to_string())?;
    let names_file = files.keys().filter_map(|name| name.to_str()).any(|name| said.contains(name));
    if said.contains(cause) || CAUSES.iter().any(|cause| said.contains(cause)) || names_file {
        Ok(())
    } else {
        Err(format!("the message names neither cause nor file: {said:?}"))
    }
}
