//! A process for one piece of work: forked from this one, it hands bytes back through a pipe and ends.
//!
//! It dies with its parent, which takes what comes back for hostile: its length is checked, and an end without an answer is an
//! error that names the cause.

use std::any::Any;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};
use std::thread::yield_now;

use rustix::process::{Pid, Signal, kill_process};

use super::fork::{describe, fork, wait};

/// The longest answer in bytes.
pub const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// What stands before the bytes of an answer: its kind and its length.
const HEADER_BYTES: usize = 16;
/// Kinds of answers.
const RESULT: u64 = 0;
const PANIC: u64 = 1;
/// Where a panic was.
static PANIC_PLACE: Mutex<String> = Mutex::new(String::new());

/// Why there is no answer.
#[derive(Debug)]
pub enum WorkerError {
    /// No process could be made.
    Start(io::Error),
    /// The process ended without an answer; how.
    Ended(String),
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "no worker process could be started: {error}"),
            Self::Ended(how) => write!(f, "its worker process {how}"),
        }
    }
}

impl std::error::Error for WorkerError {}

/// A worker process that has answered and is coming to its end. Dropping this waits for that.
#[derive(Debug)]
pub struct Leaving(pub(super) Pid);

impl Leaving {
    /// Whatever it still does is of no use to anybody.
    pub(super) fn end(&self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = wait(self.0);
    }
}

/// Does `work` in a process of its own and gives what it returns. In that process standard output is taken by the answer,
/// and nothing is dropped at the end. The calling process should have one thread only: others do not exist in the new one.
/// `meanwhile` is done here while that process works.
///
/// # Errors
/// [`WorkerError`].
pub fn run(work: impl FnOnce() -> Vec<u8>, meanwhile: impl FnOnce()) -> Result<(Vec<u8>, Leaving), WorkerError> {
    let (reader, writer) = io::pipe().map_err(WorkerError::Start)?;
    let leaving = Leaving(fork(|| be_worker(&writer, || Some(work()))).map_err(WorkerError::Start)?);
    drop(writer);
    // It may have got this processor to share, and whoever runs this has to wait for it in the end.
    yield_now();
    meanwhile();
    conclude(&reader, leaving)
}

/// Waits for a worker's answer.
pub(super) fn conclude(reader: &PipeReader, leaving: Leaving) -> Result<(Vec<u8>, Leaving), WorkerError> {
    let answer = read_answer(reader);
    leaving.end();
    match answer {
        Ok((RESULT, answer)) => Ok((answer, leaving)),
        Ok((PANIC, words)) => {
            Err(WorkerError::Ended(format!("gave up: {}", String::from_utf8_lossy(&words).escape_debug())))
        }
        Ok(_) => Err(WorkerError::Ended("answered nonsense".to_owned())),
        Err(_) => Err(WorkerError::Ended(how_it_ended(leaving))),
    }
}

fn read_answer(mut reader: &PipeReader) -> io::Result<(u64, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let word = |at: usize| header[at..at + 8].try_into().map_or(u64::MAX, u64::from_le_bytes);
    let (kind, length) = (word(0), word(8));
    if length > MAX_ANSWER_BYTES {
        return Ok((u64::MAX, Vec::new()));
    }
    let mut answer = vec![0; usize::try_from(length).unwrap_or(0)];
    reader.read_exact(&mut answer)?;
    Ok((kind, answer))
}

fn how_it_ended(leaving: Leaving) -> String {
    let status = wait(leaving.0);
    std::mem::forget(leaving);
    describe(status)
}

/// Is a worker: does its work and sends what that gives, if it gives something.
pub(super) fn be_worker(writer: &PipeWriter, work: impl FnOnce() -> Option<Vec<u8>>) -> u8 {
    if rustix::stdio::dup2_stdout(writer).is_ok() {
        set_hook(Box::new(|panic| {
            let place = panic.location().map_or_else(String::new, ToString::to_string);
            *PANIC_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }));
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Some(answer)) => send(RESULT, &answer),
            Ok(None) => {}
            Err(panic) => send(PANIC, panic_words(&*panic).as_bytes()),
        }
    }
    0
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    format!("{words} ({})", PANIC_PLACE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Writes an answer; a parent that does not read it any more has its reasons.
fn send(kind: u64, bytes: &[u8]) {
    let length = bytes.len() as u64;
    let whole = [&kind.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat();
    let mut rest = &whole[..];
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(work: impl FnOnce() -> Vec<u8>) -> String {
        run(work, || ()).expect_err("no answer").to_string()
    }

    #[test]
    fn bytes_come_back_whole() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        let (answer, _leaving) = run(|| sent.clone(), || ()).expect("an answer");
        assert_eq!(answer, sent);
        assert_eq!(run(Vec::new, || ()).expect("an answer").0, Vec::<u8>::new());
    }

    #[test]
    fn every_early_end_is_named() {
        assert_eq!(said(|| std::process::exit(3)), "its worker process ended early with status 3");
        assert!(
            said(|| panic!("no\nmore"))
                .starts_with("its worker process gave up: no\\nmore (instar/src/jail/worker.rs:")
        );
        let raise = |signal| {
            move || {
                let _ = kill_process(rustix::process::getpid(), signal);
                Vec::new()
            }
        };
        assert_eq!(said(raise(Signal::KILL)), "its worker process was killed by signal 9");
        assert!(said(raise(Signal::SYS)).ends_with("a system call that is not on its list (SIGSYS)"));
        let long = || vec![0; usize::try_from(MAX_ANSWER_BYTES).expect("short") + 1];
        assert_eq!(said(long), "its worker process answered nonsense");
    }

    #[test]
    fn what_a_worker_changes_stays_there() {
        let mut number = 1;
        let mut done_here = false;
        let work = || {
            number += 1;
            vec![number]
        };
        let (answer, _leaving) = run(work, || done_here = true).expect("an answer");
        assert_eq!((answer, number, done_here), (vec![2], 1, true));
    }
}
