//! Which system calls can fail in which ways, and how the program must end then.

use super::{Call, Injection};
use nix::libc::{self, c_long};

/// How the program must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a message and status 1: to go on would be to lose data, or to claim what nobody knows.
    Fails,
    /// As if nothing had happened, or with a message and status 1.
    Either,
    /// As if nothing had happened: a warning at most.
    Succeeds,
}

/// A kind of system calls, and ways in which they fail.
#[derive(Clone, Copy, Debug)]
pub struct Failing {
    /// What it is called in messages.
    pub name: &'static str,
    /// The call's number.
    pub number: c_long,
    /// An argument that makes it this kind, and its value.
    pub only: Option<(usize, u64)>,
    /// What happens, and how the program ends then.
    pub ways: &'static [(Injection, Ending)],
    /// How it ends instead if that happens to the program's first call of the kind.
    pub first: Option<Ending>,
}

/// The request of KVM that runs a guest (linux/kvm.h).
const KVM_RUN: u64 = 0xae80;
/// Flags of a pipe that does not lead to another process.
const PASSES_PAGES: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK).unsigned_abs() as u64;
/// Flags with which pages come to stand in a second place.
const LENDS_PAGES: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP).unsigned_abs() as u64;
/// Reasons for an exit (linux/kvm.h).
const EXIT_UNKNOWN: u32 = 0;
const EXIT_HALT: u32 = 5;
const EXIT_SHUTDOWN: u32 = 8;
const EXIT_FAIL_ENTRY: u32 = 9;
const EXIT_INTERNAL_ERROR: u32 = 17;

use Ending::{Either, Fails, Succeeds};
use Injection::{Errno, Exit, Half};

const fn call(name: &'static str, number: c_long, ways: &'static [(Injection, Ending)]) -> Failing {
    Failing { name, number, only: None, ways, first: None }
}

const EITHER_IO: &[(Injection, Ending)] = &[(Errno(libc::EIO), Either)];
const FAILS_DISK: &[(Injection, Ending)] = &[(Errno(libc::EIO), Fails), (Errno(libc::ENOSPC), Fails)];
const SUCCEEDS_INVALID: &[(Injection, Ending)] = &[(Errno(libc::EINVAL), Succeeds)];

/// The first kind that fits counts.
#[rustfmt::skip]
pub const FAILING: &[Failing] = &[
    // The machine.
    Failing { only: Some((1, KVM_RUN)), ..call("KVM_RUN", libc::SYS_ioctl, &[
        (Errno(libc::EINTR), Succeeds), (Errno(libc::EAGAIN), Succeeds),
        (Errno(libc::EFAULT), Fails), (Errno(libc::EIO), Fails), (Errno(libc::ENOMEM), Fails),
        (Exit(EXIT_UNKNOWN), Fails), (Exit(EXIT_HALT), Fails), (Exit(EXIT_SHUTDOWN), Fails),
        (Exit(EXIT_FAIL_ENTRY), Fails), (Exit(EXIT_INTERNAL_ERROR), Fails),
    ]) },
    call("ioctl", libc::SYS_ioctl, &[(Errno(libc::EIO), Either), (Errno(libc::ENOMEM), Either)]),
    call("mmap", libc::SYS_mmap, &[(Errno(libc::ENOMEM), Either)]),
    call("openat", libc::SYS_openat, &[(Errno(libc::EIO), Either), (Errno(libc::EMFILE), Either)]),
    call("timer_create", libc::SYS_timer_create, &[(Errno(libc::EAGAIN), Fails)]),
    call("timer_settime", libc::SYS_timer_settime, &[(Errno(libc::EINVAL), Fails)]),
    call("timer_delete", libc::SYS_timer_delete, SUCCEEDS_INVALID),
    call("rt_sigaction", libc::SYS_rt_sigaction, &[(Errno(libc::EINVAL), Either)]),

    // Writing images.
    call("fdatasync", libc::SYS_fdatasync, FAILS_DISK),
    call("fsync", libc::SYS_fsync, FAILS_DISK),
    call("ftruncate", libc::SYS_ftruncate, FAILS_DISK),
    // Nothing depends on space that is taken before it is written.
    Failing { only: Some((1, 0)), ..call("fallocate", libc::SYS_fallocate, &[
        (Errno(libc::EIO), Succeeds), (Errno(libc::ENOSPC), Succeeds), (Errno(libc::EOPNOTSUPP), Succeeds), (Errno(libc::EINTR), Succeeds),
    ]) },
    call("fallocate", libc::SYS_fallocate, &[
        (Errno(libc::EIO), Either), (Errno(libc::ENOSPC), Either), (Errno(libc::EOPNOTSUPP), Succeeds), (Errno(libc::EINTR), Succeeds),
    ]),
    call("pwrite64", libc::SYS_pwrite64, &[
        (Errno(libc::EIO), Fails), (Errno(libc::ENOSPC), Fails), (Errno(libc::EINTR), Succeeds), (Half, Succeeds),
    ]),
    call("splice", libc::SYS_splice, &[
        (Errno(libc::EIO), Fails), (Errno(libc::ENOSPC), Fails), (Errno(libc::EINTR), Succeeds),
    ]),
    call("copy_file_range", libc::SYS_copy_file_range, &[
        (Errno(libc::EIO), Fails), (Errno(libc::ENOSPC), Fails), (Errno(libc::EINTR), Succeeds),
        (Errno(libc::EXDEV), Succeeds), (Errno(libc::EINVAL), Succeeds), (Errno(libc::EOPNOTSUPP), Succeeds),
    ]),
    call("unlinkat", libc::SYS_unlinkat, &[(Errno(libc::EIO), Fails)]),
    call("sync_file_range", libc::SYS_sync_file_range, SUCCEEDS_INVALID),
    call("fadvise64", libc::SYS_fadvise64, SUCCEEDS_INVALID),

    // Reading them, and looking at files.
    call("pread64", libc::SYS_pread64, &[
        (Errno(libc::EIO), Fails), (Errno(libc::EINTR), Succeeds), (Half, Succeeds),
    ]),
    call("lseek", libc::SYS_lseek, EITHER_IO),
    call("fstat", libc::SYS_fstat, EITHER_IO),
    call("newfstatat", libc::SYS_newfstatat, EITHER_IO),
    call("statx", libc::SYS_statx, EITHER_IO),
    call("fstatfs", libc::SYS_fstatfs, EITHER_IO),
    call("readlink", libc::SYS_readlink, EITHER_IO),
    call("getcwd", libc::SYS_getcwd, &[(Errno(libc::ENOENT), Either)]),
    call("fcntl", libc::SYS_fcntl, &[(Errno(libc::ENOLCK), Either)]),
    call("close", libc::SYS_close, &[(Errno(libc::EIO), Either)]),

    // Worker processes, threads, and what is said.
    // Without what passes pages on they are copied.
    Failing { only: Some((1, PASSES_PAGES)), ..call("pipe2", libc::SYS_pipe2, &[(Errno(libc::EMFILE), Succeeds)]) },
    // The first of each is for the first image, before the command line is read: what is lacking then is made again when it is needed.
    Failing { first: Some(Succeeds), ..call("clone", libc::SYS_clone, &[(Errno(libc::EAGAIN), Either), (Errno(libc::ENOMEM), Either)]) },
    Failing { first: Some(Succeeds), ..call("pipe2", libc::SYS_pipe2, &[(Errno(libc::EMFILE), Fails)]) },
    Failing { first: Some(Succeeds), ..call("socketpair", libc::SYS_socketpair, &[(Errno(libc::EMFILE), Fails)]) },
    call("sendmsg", libc::SYS_sendmsg, &[(Errno(libc::ENOBUFS), Fails), (Errno(libc::EINTR), Succeeds)]),
    call("recvmsg", libc::SYS_recvmsg, &[(Errno(libc::ENOBUFS), Fails), (Errno(libc::EINTR), Succeeds)]),
    call("recvfrom", libc::SYS_recvfrom, &[(Errno(libc::ENOBUFS), Fails), (Errno(libc::EINTR), Succeeds)]),
    call("dup2", libc::SYS_dup2, &[(Errno(libc::EBADF), Fails)]),
    call("read", libc::SYS_read, &[(Errno(libc::EIO), Fails), (Errno(libc::EINTR), Succeeds)]),
    call("write", libc::SYS_write, &[(Errno(libc::EIO), Fails), (Errno(libc::EINTR), Succeeds), (Half, Succeeds)]),
    call("wait4", libc::SYS_wait4, &[(Errno(libc::ECHILD), Succeeds), (Errno(libc::EINTR), Succeeds)]),
    call("kill", libc::SYS_kill, &[(Errno(libc::ESRCH), Succeeds)]),

    // The jail: what it lacks it warns of.
    call("close_range", libc::SYS_close_range, &[(Errno(libc::ENOSYS), Succeeds)]),
    call("prctl", libc::SYS_prctl, SUCCEEDS_INVALID),
    call("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, &[(Errno(libc::ENOSYS), Succeeds), (Errno(libc::ENOMEM), Succeeds)]),
    call("landlock_add_rule", libc::SYS_landlock_add_rule, &[(Errno(libc::ENOMEM), Succeeds)]),
    call("landlock_restrict_self", libc::SYS_landlock_restrict_self, &[(Errno(libc::E2BIG), Succeeds)]),
    call("prlimit64", libc::SYS_prlimit64, &[(Errno(libc::EPERM), Succeeds)]),
    call("seccomp", libc::SYS_seccomp, &[(Errno(libc::ENOSYS), Succeeds)]),

    // Without it the guest's program is copied.
    Failing { only: Some((3, LENDS_PAGES)), ..call("mremap", libc::SYS_mremap, &[(Errno(libc::EINVAL), Succeeds), (Errno(libc::ENOMEM), Succeeds)]) },

    // Advice.
    call("madvise", libc::SYS_madvise, SUCCEEDS_INVALID),
];

/// Calls that cannot fail, or whose failing is the C library's or the language's own business.
pub const NEVER_FAILING: &[(c_long, &str)] = &[
    (libc::SYS_brk, "the C library asks mmap instead"),
    (libc::SYS_munmap, "gives memory back"),
    (libc::SYS_mremap, "the C library makes a new block instead"),
    (libc::SYS_mprotect, "stacks of threads"),
    (libc::SYS_sigaltstack, "the language's own notice of an overflow of the stack"),
    (libc::SYS_rt_sigprocmask, "cannot fail"),
    (libc::SYS_rt_sigreturn, "does not return"),
    (libc::SYS_set_robust_list, "cannot fail"),
    (libc::SYS_rseq, "the C library goes without"),
    (libc::SYS_clone3, "answered with \"no such call\" by the jail"),
    (libc::SYS_sched_getaffinity, "the C library goes without"),
    (libc::SYS_sched_yield, "cannot fail"),
    (libc::SYS_futex, "waits"),
    (libc::SYS_restart_syscall, "waits"),
    (libc::SYS_clock_nanosleep, "waits"),
    (libc::SYS_getpid, "cannot fail"),
    (libc::SYS_getppid, "cannot fail"),
    (libc::SYS_gettid, "cannot fail"),
    (libc::SYS_getrandom, "the C library and the language have other sources"),
    (libc::SYS_exit, "does not return"),
    (libc::SYS_exit_group, "does not return"),
];

/// The kind of a call: its place in [`FAILING`].
pub fn failing(call: &Call) -> Option<usize> {
    FAILING.iter().position(|kind| {
        let fits = |(argument, value): (usize, u64)| call.arguments[argument] & 0xffff_ffff == value;
        kind.number == call.number && kind.only.is_none_or(fits)
    })
}
