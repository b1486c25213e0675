//! A child process under trace: its stops, its registers, its end.
#![expect(unsafe_code, reason = "tracing processes has no safe interface in every C library")]

use std::mem::MaybeUninit;

use libc::{siginfo_t, user_regs_struct};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::jail::calls::{PTRACE_GETREGS, PTRACE_GETSIGINFO, PTRACE_KILL, PTRACE_SETREGS, PTRACE_SYSEMU};
use crate::vm::error::VmError;

/// Goes on without stopping at system calls; only before the guest's first instruction.
const PTRACE_CONT: u32 = 7;
const PTRACE_SETOPTIONS: u32 = 0x4200;
const PTRACE_O_EXITKILL: usize = 1 << 20;

/// Why the kernel says that a signal came: a processor's fault rather than somebody who sent it.
const ADDRESS_NOT_MAPPED: i32 = 1;
/// Reasons from here on down are other processes'.
const SENT: i32 = 0;
/// The kernel knows no more than that it was the processor.
const PROCESSOR: i32 = 0x80;

/// What has become of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It stopped with this signal, which it has not got yet.
    Stopped(i32),
    /// It ended with this status.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
}

/// What a signal is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    /// The address that was wanted, if it was a memory access and the processor tells.
    pub(super) address: Option<u64>,
    /// There is nothing at that address.
    pub(super) is_unmapped: bool,
    /// Another process sent it.
    pub(super) was_sent: bool,
}

/// A traced child process, which stops for this thread alone. It dies with this process, and when this is dropped.
#[derive(Debug)]
pub(super) struct Tracee {
    process: Pid,
    has_ended: bool,
}

impl Tracee {
    pub(super) fn new(process: Pid) -> Self {
        Self { process, has_ended: false }
    }

    /// Waits until something becomes of it.
    pub(super) fn wait(&mut self) -> Result<Event, VmError> {
        loop {
            match waitpid(Some(self.process), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(VmError::setup("waiting for the guest's process", error)),
                Ok(status) => {
                    let Some((_, status)) = status else { continue };
                    self.has_ended = !status.stopped();
                    return Ok(match (status.stopping_signal(), status.exit_status(), status.terminating_signal()) {
                        (Some(signal), ..) => Event::Stopped(signal),
                        (_, Some(status), _) => Event::Exited(status),
                        (.., signal) => Event::Killed(signal.unwrap_or(0)),
                    });
                }
            }
        }
    }

    fn request(&self, what: &'static str, number: u32, data: usize) -> Result<(), VmError> {
        // SAFETY: the callers give addresses of variables of the right type where the request takes one.
        let result = unsafe {
            libc::syscall(libc::SYS_ptrace, number as usize, self.process.as_raw_nonzero().get(), 0usize, data)
        };
        if result >= 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(if error.raw_os_error() == Some(libc::ESRCH) { killed(libc::SIGKILL) } else { VmError::setup(what, error) })
    }

    /// Has it killed when this process ends.
    pub(super) fn bind(&self) -> Result<(), VmError> {
        self.request("tying the guest's process to this one", PTRACE_SETOPTIONS, PTRACE_O_EXITKILL)
    }

    /// Lets it go on, without the signal that it stopped with.
    pub(super) fn go_on(&self) -> Result<(), VmError> {
        self.request("starting the guest's process", PTRACE_CONT, 0)
    }

    /// The same, and it will stop at any system call that it tries, which is not carried out.
    pub(super) fn run(&self) -> Result<(), VmError> {
        self.request("running the guest's process", PTRACE_SYSEMU, 0)
    }

    pub(super) fn registers(&self) -> Result<user_regs_struct, VmError> {
        let mut registers = MaybeUninit::<user_regs_struct>::zeroed();
        self.request("reading the guest's registers", PTRACE_GETREGS, registers.as_mut_ptr().addr())?;
        // SAFETY: registers are numbers, and those that the kernel has not filled in are zero.
        Ok(unsafe { registers.assume_init() })
    }

    pub(super) fn set_registers(&self, registers: &user_regs_struct) -> Result<(), VmError> {
        self.request("setting the guest's registers", PTRACE_SETREGS, (&raw const *registers).addr())
    }

    /// What the signal is about that it stopped with.
    pub(super) fn cause(&self) -> Result<Cause, VmError> {
        let mut info = MaybeUninit::<siginfo_t>::zeroed();
        self.request("reading why the guest stopped", PTRACE_GETSIGINFO, info.as_mut_ptr().addr())?;
        // SAFETY: all fields are numbers, and those that the kernel has not filled in are zero.
        let info = unsafe { info.assume_init() };
        let is_access = info.si_signo == libc::SIGSEGV || info.si_signo == libc::SIGBUS;
        let tells = is_access && info.si_code > SENT && info.si_code != PROCESSOR;
        // SAFETY: a signal of this kind comes with an address.
        let address = tells.then(|| unsafe { info.si_addr() }.addr() as u64);
        let is_unmapped = info.si_signo == libc::SIGSEGV && info.si_code == ADDRESS_NOT_MAPPED;
        Ok(Cause { address, is_unmapped, was_sent: info.si_code <= SENT })
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // It is stopped, for nobody else lets it run; or somebody has killed it, and it cannot be told.
        let _ = self.request("", PTRACE_KILL, 0);
        while matches!(self.wait(), Ok(Event::Stopped(_))) {}
    }
}

/// The end of a process that has not ended by itself: the system's, where it has no more memory, or somebody's.
pub(super) fn killed(signal: i32) -> VmError {
    VmError::Exit(format!("the guest's process was killed by signal {signal}; is there enough memory?"))
}
