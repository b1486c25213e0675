//! Makes processes that are copies of this one: each does one piece of work, and dies with its parent.
//!
//! What a child does to its memory, its descriptors and its rights is nothing to the parent.
#![expect(unsafe_code, reason = "making a process without a new program, and ending it, have no safe interface")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, set_parent_process_death_signal, waitpid,
};

/// The status of a process whose work has panicked; it is Rust's own.
const PANICKED: u8 = 101;

/// Makes a process that does `work` and ends with the status that it returns; nothing else is dropped there. The calling
/// process should have one thread only: others do not exist in the new one.
///
/// # Errors
/// If no process can be made.
pub(super) fn fork(work: impl FnOnce() -> u8) -> io::Result<Pid> {
    let parent = getpid();
    // SAFETY: the new process has a copy of everything but the other threads. It uses no lock that they may hold but the
    // allocator's, which the C library keeps usable.
    let number = unsafe { libc::fork() };
    match number {
        0 => be_child(parent, work),
        ..0 => Err(io::Error::last_os_error()),
        _ => Pid::from_raw(number).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

fn be_child(parent: Pid, work: impl FnOnce() -> u8) -> ! {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // Nobody waits for the work of a process whose parent was gone before.
    let is_wanted = getppid() == Some(parent);
    let status = if is_wanted { catch_unwind(AssertUnwindSafe(work)).unwrap_or(PANICKED) } else { 0 };
    // SAFETY: ends the process; what the parent's memory holds here is not to be dropped twice.
    unsafe { libc::_exit(status.into()) }
}

/// From now on the system tells how children end, even if whoever started this program did not want to know of his own.
pub(super) fn want_to_know_ends() {
    // SAFETY: it is the default, and this program sets nothing else for this signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Waits for the end of a child; `None` where the system does not tell.
pub(super) fn wait(child: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            // Whoever ignores the end of child processes is not told of it.
            result => return result.ok().flatten().map(|(_, status)| status),
        }
    }
}

/// How a process ended that should not have ended in this way, as the rest of a sentence about it.
pub(super) fn describe(status: Option<WaitStatus>) -> String {
    match status.map(|status| (status.exit_status(), status.terminating_signal())) {
        Some((_, Some(libc::SIGSYS))) => {
            "was stopped by the system: it made a system call that is not on its list (SIGSYS)".to_owned()
        }
        Some((_, Some(signal))) => format!("was killed by signal {signal}"),
        Some((Some(status), _)) => format!("ended early with status {status}"),
        _ => "ended early".to_owned(),
    }
}
