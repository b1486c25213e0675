//! Runs a program, shows every system call that it and its child processes make, and lets the caller make one fail: from
//! outside, so that the program needs nothing for it.
//!
//! A call that is to fail is not made: a harmless one, which every jail allows, takes its place, and its result is overwritten.
#![expect(unsafe_code, reason = "asking to be traced between fork and exec has no safe interface")]

use crate::runner::{RunOutput, collect};
use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which process makes it: 0 is the program, 1 the first process that it started.
    pub process: usize,
    /// Its number.
    pub number: c_long,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// It fails with this error number.
    Errno(i32),
    /// Its third argument is halved: half of the bytes are read or written.
    Half,
    /// It returns 0 without the processor having run, and this is the reason for the exit. Only for KVM_RUN.
    Exit(u32),
}

/// Where `struct kvm_run` has the reason for an exit (linux/kvm.h), and what else lies in the same 8 bytes.
const EXIT_REASON: u64 = 8;

/// Runs a program to its end, or kills it after `limit`. `decide` is asked about every call after the C library and the
/// language's runtime have started.
///
/// # Errors
/// Those of starting and tracing.
pub fn run(
    command: &mut Command,
    limit: Duration,
    decide: &mut dyn FnMut(&Call) -> Option<Injection>,
) -> io::Result<RunOutput> {
    // SAFETY: the call is one system call and nothing else, which is fine between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let child = Pid::from_raw(i32::try_from(spawned.id()).map_err(io::Error::other)?);
    let stdout = collect(spawned.stdout.take().expect("piped"));
    let stderr = collect(spawned.stderr.take().expect("piped"));
    let (ended, is_over) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let is_late = is_over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if is_late {
            let _ = kill(child, Signal::SIGKILL);
        }
        is_late
    });
    let status = Tracer { decide, has_started: false, threads: HashMap::new(), processes: Vec::new() }.follow(child);
    drop(ended);
    let is_late = watchdog.join().unwrap_or(false);
    let rc = match status? {
        _ if is_late => None,
        WaitStatus::Exited(_, status) => Some(status),
        WaitStatus::Signaled(_, signal, _) => Some(-(signal as i32)),
        _ => None,
    };
    let text = |pipe: thread::JoinHandle<Vec<u8>>| pipe.join().unwrap_or_default();
    Ok(RunOutput { rc, stdout: text(stdout), stderr: text(stderr) })
}

/// One thread of the program.
#[derive(Clone, Copy, Debug)]
struct Thread {
    /// Its process: a place in [`Tracer::processes`].
    process: usize,
    /// The call that it is in, and what happens to that.
    in_call: Option<(Call, Option<Injection>)>,
}

/// One process of the program.
#[derive(Clone, Copy, Debug)]
struct Process {
    number: Pid,
    /// Where its last virtual processor's `struct kvm_run` lies.
    run_area: u64,
}

struct Tracer<'a> {
    decide: &'a mut dyn FnMut(&Call) -> Option<Injection>,
    has_started: bool,
    threads: HashMap<Pid, Thread>,
    processes: Vec<Process>,
}

impl Tracer<'_> {
    /// Follows the program from its first stop to its end; says how it ended.
    fn follow(&mut self, child: Pid) -> io::Result<WaitStatus> {
        let mut ended = waitpid(child, None)?;
        let follow = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::setoptions(child, follow | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)?;
        ptrace::syscall(child, None)?;
        // Other tests have children of their own, in other threads.
        let all = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(all)) {
                Err(Errno::ECHILD) => return Ok(ended),
                status => status?,
            };
            let (thread, signal) = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    // A thread that was killed meanwhile says so in its own turn.
                    let _ = self.stop(thread);
                    (thread, None)
                }
                status @ (WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..)) => {
                    if thread == child {
                        ended = status;
                    }
                    continue;
                }
                // New threads and processes start with a stop that is nobody's signal.
                WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                _ => continue,
            };
            let _ = ptrace::syscall(thread, signal);
        }
    }

    /// A thread is at the start or at the end of a call.
    fn stop(&mut self, id: Pid) -> nix::Result<()> {
        let mut thread = self.thread(id);
        match thread.in_call.take() {
            Some((call, injection)) => self.leave(id, &call, injection)?,
            None => thread.in_call = Some(self.enter(id, thread.process)?),
        }
        self.threads.insert(id, thread);
        Ok(())
    }

    fn enter(&mut self, id: Pid, process: usize) -> nix::Result<(Call, Option<Injection>)> {
        let mut registers = ptrace::getregs(id)?;
        let [number, arguments @ ..] = [
            registers.orig_rax,
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ];
        let call = Call { process, number: number.cast_signed(), arguments };
        let injection = if self.has_started { (self.decide)(&call) } else { None };
        // The last thing that the language's runtime does is to take this signal.
        self.has_started |= call.number == libc::SYS_rt_sigaction
            && arguments[0] == u64::from(libc::SIGBUS.unsigned_abs())
            && arguments[1] != 0;
        match injection {
            None => return Ok((call, None)),
            Some(Injection::Half) => registers.rdx = registers.rdx.div_ceil(2),
            Some(_) => registers.orig_rax = libc::SYS_sched_yield.unsigned_abs(),
        }
        ptrace::setregs(id, registers)?;
        Ok((call, injection))
    }

    fn leave(&mut self, id: Pid, call: &Call, injection: Option<Injection>) -> nix::Result<()> {
        let is_run_area = call.number == libc::SYS_mmap
            && call.arguments[3] & u64::from(libc::MAP_SHARED.unsigned_abs()) != 0
            && call.arguments[4] != u64::MAX
            && injection.is_none();
        if !is_run_area && injection.is_none() {
            return Ok(());
        }
        let mut registers = ptrace::getregs(id)?;
        let process = &mut self.processes[call.process];
        match injection {
            None => process.run_area = registers.rax,
            Some(Injection::Half) => {
                // The kernel leaves this register alone, and the program relies on that.
                registers.rdx = call.arguments[2];
                ptrace::setregs(id, registers)?;
            }
            Some(Injection::Errno(errno)) => {
                registers.rax = i64::from(-errno).cast_unsigned();
                ptrace::setregs(id, registers)?;
            }
            Some(Injection::Exit(reason)) => {
                let place = usize::try_from(process.run_area + EXIT_REASON).map_err(|_| Errno::EFAULT)?;
                ptrace::write(id, std::ptr::without_provenance_mut(place), reason.into())?;
                registers.rax = 0;
                ptrace::setregs(id, registers)?;
            }
        }
        Ok(())
    }

    fn thread(&mut self, id: Pid) -> Thread {
        if let Some(thread) = self.threads.get(&id) {
            return *thread;
        }
        let number = process_of(id);
        let known = self.processes.iter().position(|process| process.number == number);
        let process = known.unwrap_or_else(|| {
            self.processes.push(Process { number, run_area: 0 });
            self.processes.len() - 1
        });
        Thread { process, in_call: None }
    }
}

fn process_of(thread: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok()).map_or(thread, Pid::from_raw)
}
