//! Processes for pieces of work that go on side by side: forked from this one, each with a standard output and a standard error of its own.
//!
//! What they write is kept until they have ended, and then handed out whole. They die with their parent, which takes their words
//! for hostile: no more than a limit is kept, and how each has ended says the system.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitStatus};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use super::fork::{describe, fork, wait, want_to_know_ends};

/// The most bytes that are kept of what a process writes to one output.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// What stands behind the kept bytes where there were more.
const CUT: &[u8] = b"\n(the rest is left out)\n";
/// How many bytes are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// The status of a process that could not take its outputs.
const NO_OUTPUTS: u8 = 102;

/// The processes that are at work.
#[derive(Debug)]
pub struct Crew(Vec<Member>);

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The number of its task.
    pub task: usize,
    /// What it has written to standard output.
    pub out: Vec<u8>,
    /// What it has written to standard error.
    pub err: Vec<u8>,
    status: Option<WaitStatus>,
}

#[derive(Debug)]
struct Member {
    task: usize,
    process: Pid,
    out: Output,
    err: Output,
}

impl Ended {
    /// The status with which it ended by itself.
    #[must_use]
    pub fn status(&self) -> Option<u8> {
        self.status.and_then(WaitStatus::exit_status).and_then(|status| u8::try_from(status).ok())
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(WaitStatus::terminating_signal)
    }

    /// How it ended, as the rest of a sentence, for those that should have ended in another way.
    #[must_use]
    pub fn how(&self) -> String {
        describe(self.status)
    }
}

impl Crew {
    /// Nobody yet. From now on the system tells this process how its children end.
    #[must_use]
    pub fn assemble() -> Self {
        want_to_know_ends();
        Self(Vec::new())
    }

    /// Does `work` in a process of its own, which ends with the status that it returns. The calling process should have one
    /// thread only: others do not exist in the new one.
    ///
    /// # Errors
    /// If no process can be made, or no pipe.
    pub fn start(&mut self, task: usize, work: impl FnOnce() -> u8) -> io::Result<()> {
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        let others = &mut self.0;
        let process = fork(|| {
            // What the others write is no business of this one.
            others.clear();
            if dup2_stdout(&out_end).and_then(|()| dup2_stderr(&err_end)).is_err() {
                return NO_OUTPUTS;
            }
            drop((out_end, err_end));
            work()
        })?;
        self.0.push(Member { task, process, out: Output::of(out), err: Output::of(err) });
        Ok(())
    }

    /// Waits until one has ended; `None` if a signal comes before that, or nobody is at work.
    pub fn wait(&mut self) -> Option<Ended> {
        while !self.0.is_empty() {
            if let Some(index) = self.0.iter().position(|member| member.outputs().all(Output::is_over)) {
                let Member { task, process, out, err } = self.0.swap_remove(index);
                return Some(Ended { task, status: wait(process), out: out.kept(), err: err.kept() });
            }
            let mut open: Vec<&mut Output> =
                self.0.iter_mut().flat_map(Member::outputs_mut).filter(|output| !output.is_over()).collect();
            let pipes = open.iter().filter_map(|output| output.pipe.as_ref());
            let mut ready: Vec<PollFd<'_>> =
                pipes.map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).collect();
            let answer = poll(&mut ready, None);
            if answer == Err(rustix::io::Errno::INTR) {
                return None;
            }
            // Where the system does not say which of them has something, reading waits for it.
            let ready: Vec<bool> = ready.iter().map(|pipe| answer.is_err() || !pipe.revents().is_empty()).collect();
            open.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready).for_each(|(output, _)| output.read());
        }
        None
    }
}

impl Member {
    fn outputs(&self) -> impl Iterator<Item = &Output> {
        [&self.out, &self.err].into_iter()
    }

    fn outputs_mut(&mut self) -> impl Iterator<Item = &mut Output> {
        [&mut self.out, &mut self.err].into_iter()
    }
}

/// What comes through a pipe.
#[derive(Debug)]
struct Output {
    /// Until its other end is closed.
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn of(pipe: PipeReader) -> Self {
        Self { pipe: Some(pipe), bytes: Vec::new(), is_cut: false }
    }

    fn is_over(&self) -> bool {
        self.pipe.is_none()
    }

    fn read(&mut self) {
        let mut piece = [0; PIECE_BYTES];
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => self.pipe = None,
            Ok(count) => {
                let room = count.min(MAX_KEPT_BYTES - self.bytes.len());
                self.bytes.extend_from_slice(&piece[..room]);
                self.is_cut |= room < count;
            }
        }
    }

    fn kept(mut self) -> Vec<u8> {
        if self.is_cut {
            self.bytes.extend_from_slice(CUT);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use rustix::stdio::{stderr, stdout};

    use super::*;

    /// Writes past the library's own output, which another test may hold.
    fn write(out: BorrowedFd<'_>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[rustix::io::write(out, bytes).expect("written")..];
        }
    }

    fn all(crew: &mut Crew, count: usize) -> Vec<Ended> {
        let mut ended: Vec<Ended> = Vec::new();
        while ended.len() < count {
            ended.extend(crew.wait());
        }
        assert!(crew.wait().is_none(), "somebody is left");
        ended.sort_by_key(|ended| ended.task);
        ended
    }

    #[test]
    fn what_each_writes_comes_back_apart_and_whole() {
        let mut crew = Crew::assemble();
        for task in 0..5u8 {
            let work = || {
                for part in [vec![task; 70_000], vec![task + 100; 70_000]] {
                    write(stdout(), &part);
                    write(stderr(), &part[..3]);
                }
                task + 7
            };
            crew.start(task.into(), work).expect("a process");
        }
        for (ended, task) in all(&mut crew, 5).iter().zip(0u8..) {
            assert_eq!((ended.task, ended.status()), (task.into(), Some(task + 7)));
            assert_eq!(ended.out, [vec![task; 70_000], vec![task + 100; 70_000]].concat());
            assert_eq!(ended.err, [task, task, task, task + 100, task + 100, task + 100]);
        }
    }

    #[test]
    fn whoever_ends_first_is_told_first_and_every_end_is_named() {
        let mut crew = Crew::assemble();
        let slow = || {
            std::thread::sleep(Duration::from_secs(3));
            0
        };
        crew.start(0, slow).expect("a process");
        for (task, signal) in [(1, Signal::KILL), (2, Signal::SYS)] {
            let killed = move || {
                let _ = kill_process(getpid(), signal);
                0
            };
            crew.start(task, killed).expect("a process");
        }
        let mut first = [crew.wait().expect("one"), crew.wait().expect("another")];
        first.sort_by_key(|ended| ended.task);
        let said = first.map(|ended| (ended.task, ended.status(), ended.how()));
        assert_eq!(said[0], (1, None, "was killed by signal 9".to_owned()));
        assert!(said[1].0 == 2 && said[1].2.ends_with("(SIGSYS)"), "{said:?}");
        let last = crew.wait().expect("the last");
        assert_eq!((last.task, last.status()), (0, Some(0)));
    }

    #[test]
    fn endless_words_are_cut() {
        let mut crew = Crew::assemble();
        let talks = || {
            write(stdout(), &vec![b'a'; MAX_KEPT_BYTES + 1]);
            0
        };
        crew.start(0, talks).expect("a process");
        let out = all(&mut crew, 1).remove(0).out;
        assert_eq!((out.len(), out.ends_with(CUT)), (MAX_KEPT_BYTES + CUT.len(), true));
    }
}
