//! Runs a program and notes every system call that it makes in a jail, and what its processes have open when the jail closes, and
//! before that when they wait for work.
#![expect(unsafe_code, reason = "asking to be traced between fork and exec has no safe interface")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What was noted.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Number and arguments of each call in a jail.
    pub(crate) calls: BTreeSet<(i64, [u64; 6])>,
    /// For each jail, what the process had open.
    pub(crate) open: Vec<Open>,
    /// The same when a process waited for work.
    pub(crate) waiting: Vec<Open>,
    /// How the program ended.
    pub(crate) ended: Option<WaitStatus>,
    /// How many processes it started.
    pub(crate) started: usize,
    /// Processes and threads that ended later than the program.
    pub(crate) outlived_by: usize,
}

/// What a process has open.
#[derive(Debug)]
#[allow(dead_code, reason = "each test uses a part")]
pub(crate) struct Open {
    pub(crate) process: Pid,
    /// `NUMBER MODE PATH` of each descriptor.
    pub(crate) files: Vec<String>,
}

#[derive(Default)]
struct Tracer {
    trace: Trace,
    /// The process of each thread.
    processes: HashMap<Pid, Pid>,
    /// Threads between the entry and the exit of a call.
    in_call: HashSet<Pid>,
    /// Number of filters that each process has.
    filters: HashMap<Pid, usize>,
    was_poked: bool,
}

/// A process with both filters is in the jail.
const FILTERS: usize = 2;

/// Runs a program to its end. As soon as it waits in a jail it gets the signal that asks for progress, once.
pub(crate) fn run(command: &mut Command) -> Trace {
    run_watched(command, &mut |_| ())
}

/// As [`run`]; `before_call` is told the number of every call in a jail before it is made.
pub(crate) fn run_watched(command: &mut Command, before_call: &mut dyn FnMut(i64)) -> Trace {
    // SAFETY: the call is one system call and nothing else, which is fine between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = Pid::from_raw(i32::try_from(command.spawn().expect("the program starts").id()).expect("a process"));
    let mut tracer = Tracer::default();
    waitpid(child, None).expect("stops at its start");
    let follow = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(child, follow | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).expect("options");
    ptrace::syscall(child, None).expect("goes on");
    // Other tests have children of their own, in other threads.
    let all = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    while let Ok(status) = waitpid(None, Some(all)) {
        let (thread, signal) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                tracer.call(thread, before_call);
                (thread, None)
            }
            ended @ (WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..)) => {
                if thread == child {
                    tracer.trace.ended = Some(ended);
                } else if tracer.trace.ended.is_some() {
                    tracer.trace.outlived_by += 1;
                }
                continue;
            }
            // New threads and processes start with a stop that is nobody's signal.
            WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, _, event) => {
                tracer.trace.started += usize::from(event == ptrace::Event::PTRACE_EVENT_FORK as i32);
                (thread, None)
            }
            _ => continue,
        };
        // A process that was killed meanwhile says so in its own turn.
        let _ = ptrace::syscall(thread, signal);
    }
    tracer.trace
}

impl Tracer {
    fn call(&mut self, thread: Pid, before_call: &mut dyn FnMut(i64)) {
        if self.in_call.remove(&thread) {
            return;
        }
        self.in_call.insert(thread);
        let Ok(registers) = ptrace::getregs(thread) else { return };
        let number = registers.orig_rax.cast_signed();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let process = *self.processes.entry(thread).or_insert_with(|| process_of(thread));
        let filters = self.filters.entry(process).or_default();
        if *filters == FILTERS {
            before_call(number);
            self.trace.calls.insert((number, arguments));
            if number == libc::SYS_clock_nanosleep && !self.was_poked {
                self.was_poked = true;
                kill(process, Signal::SIGUSR1).expect("a signal");
            }
        }
        match number {
            libc::SYS_seccomp => *filters += 1,
            libc::SYS_prctl if arguments[0] == u64::from(libc::PR_SET_DUMPABLE.unsigned_abs()) => {
                self.trace.open.push(open_in(process));
            }
            libc::SYS_recvmsg if *filters < FILTERS => self.trace.waiting.push(open_in(process)),
            _ => {}
        }
    }
}

fn process_of(thread: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let number =
        status.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|number| number.trim().parse().ok());
    number.map_or(thread, Pid::from_raw)
}

/// Nothing, if the process has been killed meanwhile.
fn open_in(process: Pid) -> Open {
    let list = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    let mut files: Vec<String> = list
        .filter_map(|entry| {
            let number = entry.ok()?.file_name().into_string().ok()?;
            let path = fs::read_link(format!("/proc/{process}/fd/{number}")).ok()?;
            let flags = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).ok()?;
            let flags =
                flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim().to_owned();
            let mode = match u32::from_str_radix(&flags, 8).ok()? & 3 {
                0 => "r",
                1 => "w",
                _ => "rw",
            };
            Some(format!("{number} {mode} {}", path.display()))
        })
        .collect();
    files.sort();
    Open { process, files }
}
