//! The system calls that a jailed process can make: all others end it. What is opened, listened to, connected or executed has no
//! entry, and neither has memory that can be executed. One list holds for all jails, one more for each kind of sandbox that a
//! guest can run in.
//!
//! The test `jail` runs every operation and compares these lists with the calls that were made, both ways.

use instar_abi::memory::MAX_MEMORY_BYTES;
use libc::c_long;

/// Where the addresses of a process end.
pub(crate) const ADDRESSES_END: u64 = (1 << 47) - 4096;

/// An entry of the list.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The call's name.
    pub name: &'static str,
    /// The call's number.
    pub number: c_long,
    /// What its arguments must be like; all of these. Entries of the same call are alternatives.
    pub conditions: &'static [Condition],
    /// Who may make it.
    pub who: Who,
    /// Where it is made.
    pub seen: Seen,
    /// What it is for.
    pub reason: &'static str,
}

/// What one argument must be like; only its lower 32 bits count.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Which argument, from 0 on.
    pub argument: u8,
    /// What must hold of it.
    pub test: Test,
}

/// What must hold of an argument.
#[derive(Clone, Copy, Debug)]
pub enum Test {
    /// It is this value.
    Is(u32),
    /// It has none of these bits.
    Lacks(u32),
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, also a process that looks at an image.
    All,
    /// A process that rehearses what would be done to images.
    Rehearsers,
    /// A process that writes images.
    Writers,
    /// A process that writes images and removes one.
    Removers,
}

/// Where a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// On every system, by one operation or another.
    Everywhere,
    /// Only on some systems, or by chance.
    Somewhere,
}

use Seen::{Everywhere, Somewhere};
use Who::{All, Rehearsers, Removers, Writers};

impl Call {
    /// Whether a call with these arguments is what the entry allows.
    #[must_use]
    pub fn allows(&self, number: c_long, arguments: &[u64; 6]) -> bool {
        self.number == number
            && self.conditions.iter().all(|condition| {
                let low_half = arguments[usize::from(condition.argument)] & 0xffff_ffff;
                match condition.test {
                    Test::Is(value) => low_half == u64::from(value),
                    Test::Lacks(mask) => low_half & u64::from(mask) == 0,
                }
            })
    }
}

const fn is(argument: u8, value: u32) -> Condition {
    Condition { argument, test: Test::Is(value) }
}

const fn lacks(argument: u8, mask: u32) -> Condition {
    Condition { argument, test: Test::Lacks(mask) }
}

#[expect(clippy::cast_possible_truncation, reason = "conditions look at the lower half alone")]
const fn low_half(value: u64) -> u32 {
    value as u32
}

const fn call(
    name: &'static str,
    number: c_long,
    conditions: &'static [Condition],
    who: Who,
    seen: Seen,
    reason: &'static str,
) -> Call {
    Call { name, number, conditions, who, seen, reason }
}

/// Numbers of the requests that the run loop makes of KVM (linux/kvm.h).
const KVM_RUN: u32 = 0xae80;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_GET_SREGS: u32 = 0x8138_ae83;
/// Numbers of the requests that the run loop makes of a guest's process (linux/ptrace.h, asm/ptrace-abi.h).
pub(crate) const PTRACE_SYSEMU: u32 = 31;
/// See above.
pub(crate) const PTRACE_GETREGS: u32 = 12;
/// See above.
pub(crate) const PTRACE_SETREGS: u32 = 13;
/// See above.
pub(crate) const PTRACE_GETSIGINFO: u32 = 0x4202;
/// See above.
pub(crate) const PTRACE_KILL: u32 = 8;
/// Where a guest's memory ends at the latest, and so the first address that its process gives back.
const MEMORY_END: u32 = low_half(MAX_MEMORY_BYTES);
/// How much it gives back from there on.
const REST: u32 = low_half(ADDRESSES_END - MAX_MEMORY_BYTES);
/// Numbers of requests to terminals (asm-generic/ioctls.h).
const TCGETS: u32 = 0x5401;
const TIOCGWINSZ: u32 = 0x5413;

const PUNCH_HOLE_KEEP_SIZE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).unsigned_abs();
const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE.unsigned_abs();
const DONT_NEED: u32 = libc::POSIX_FADV_DONTNEED.unsigned_abs();
const WILL_NEED: u32 = libc::POSIX_FADV_WILLNEED.unsigned_abs();
/// Sixth argument of preadv2.
const DONT_WAIT: u32 = libc::RWF_NOWAIT.unsigned_abs();
/// Third argument of lseek.
const SEEK_DATA: u32 = libc::SEEK_DATA.unsigned_abs();
const SEEK_HOLE: u32 = libc::SEEK_HOLE.unsigned_abs();
const GET_FLAGS: u32 = libc::F_GETFD.unsigned_abs();
const EXECUTABLE: u32 = libc::PROT_EXEC.unsigned_abs();
/// The number that stands for no file.
const NO_FILE: u32 = u32::MAX;
/// The signal by which glibc tells all threads of new user and group numbers.
const GLIBC_SIGNAL: u32 = 33;
/// How glibc starts a thread: it shares everything with the others.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID)
    .unsigned_abs();
const MUSL_THREAD: u32 = THREAD | libc::CLONE_DETACHED.unsigned_abs();

/// What is called besides where a guest runs on KVM.
#[rustfmt::skip]
pub const KVM_CALLS: &[Call] = &[
    call("ioctl", libc::SYS_ioctl, &[is(1, KVM_RUN)], All, Everywhere, "runs the guest"),
    call("ioctl", libc::SYS_ioctl, &[is(1, KVM_GET_REGS)], All, Everywhere, "says at which instruction a guest did what it may not do"),
    call("ioctl", libc::SYS_ioctl, &[is(1, KVM_GET_SREGS)], All, Everywhere, "says at which address a guest did what it may not do"),
    call("timer_delete", libc::SYS_timer_delete, &[], All, Everywhere, "ends the watchdog"),
];

/// What is called besides where a guest runs in a process.
#[rustfmt::skip]
pub const TRACER_CALLS: &[Call] = &[
    call("ptrace", libc::SYS_ptrace, &[is(0, PTRACE_SYSEMU)], All, Everywhere, "runs the guest, without any call that it makes"),
    call("ptrace", libc::SYS_ptrace, &[is(0, PTRACE_GETREGS)], All, Everywhere, "reads what the guest writes to a device, and where it stands"),
    call("ptrace", libc::SYS_ptrace, &[is(0, PTRACE_GETSIGINFO)], All, Everywhere, "says which address the guest wanted"),
    call("ptrace", libc::SYS_ptrace, &[is(0, PTRACE_SETREGS)], All, Everywhere, "answers the guest, which goes on behind its instruction"),
    call("ptrace", libc::SYS_ptrace, &[is(0, PTRACE_KILL)], All, Everywhere, "ends the guest"),
    call("wait4", libc::SYS_wait4, &[], All, Everywhere, "waits for the guest"),
];

/// What the guest's process itself calls between its own filter and the guest's first instruction. Both do nothing when they are
/// made once more.
#[rustfmt::skip]
pub const GUEST_CALLS: &[Call] = &[
    call("close", libc::SYS_close, &[is(0, 0)], All, Everywhere, "closes its last descriptor"),
    call("munmap", libc::SYS_munmap, &[is(0, MEMORY_END), is(1, REST)], All, Everywhere, "gives everything back that is not the guest's, this code among it"),
];

/// The list.
#[rustfmt::skip]
pub const CALLS: &[Call] = &[
    // The end of signal handlers.
    call("rt_sigreturn", libc::SYS_rt_sigreturn, &[], All, Everywhere, "ends the watchdog's signal handler, and the one that asks for progress"),

    // Image files, all of them open.
    call("pread64", libc::SYS_pread64, &[], All, Everywhere, "reads images"),
    call("lseek", libc::SYS_lseek, &[is(2, SEEK_DATA)], Rehearsers, Somewhere, "finds what a file holds, so that holes need no comparing"),
    call("lseek", libc::SYS_lseek, &[is(2, SEEK_HOLE)], Rehearsers, Somewhere, "finds the end of what a file holds"),
    call("pwrite64", libc::SYS_pwrite64, &[], Rehearsers, Everywhere, "writes images; in a rehearsal, where no image is open for writing, a scratch file"),
    call("fdatasync", libc::SYS_fdatasync, &[], Writers, Everywhere, "makes durable what was written"),
    call("ftruncate", libc::SYS_ftruncate, &[], Writers, Everywhere, "lengthens and shortens images"),
    call("fallocate", libc::SYS_fallocate, &[is(1, 0)], Writers, Somewhere, "takes space for what is written past the page cache, where the file system has that"),
    call("fallocate", libc::SYS_fallocate, &[is(1, PUNCH_HOLE_KEEP_SIZE)], Writers, Everywhere, "gives space back"),
    call("fallocate", libc::SYS_fallocate, &[is(1, ZERO_RANGE)], Writers, Everywhere, "writes zeros without writing them"),
    call("sync_file_range", libc::SYS_sync_file_range, &[], Writers, Everywhere, "starts writing to the disk early"),
    call("fadvise64", libc::SYS_fadvise64, &[is(3, DONT_NEED)], Writers, Everywhere, "drops pages of an overlay that will be emptied"),
    call("fadvise64", libc::SYS_fadvise64, &[is(3, WILL_NEED)], Rehearsers, Somewhere, "lets the system read ahead what will be compared"),
    call("io_uring_enter", libc::SYS_io_uring_enter, &[], Writers, Somewhere, "compares many blocks of images at once, through rings that can do nothing else"),
    call("preadv2", libc::SYS_preadv2, &[is(5, DONT_WAIT)], Writers, Somewhere, "asks whether the page cache has what will be compared"),
    call("copy_file_range", libc::SYS_copy_file_range, &[], Writers, Somewhere, "copies on file systems that share blocks or copy on a server"),
    call("splice", libc::SYS_splice, &[is(5, 0)], Writers, Somewhere, "passes pages on to what is written past the page cache"),
    call("fcntl", libc::SYS_fcntl, &[is(1, GET_FLAGS)], All, Somewhere, "debug builds make sure that what they close is open"),
    call("close", libc::SYS_close, &[], All, Everywhere, "gives images and their locks back"),

    // Removing the overlay with --delete-overlay.
    call("fsync", libc::SYS_fsync, &[], Removers, Everywhere, "makes the base durable before the overlay goes"),
    call("newfstatat", libc::SYS_newfstatat, &[], Removers, Everywhere, "makes sure that the name still stands for the overlay"),
    call("unlinkat", libc::SYS_unlinkat, &[is(2, 0)], Removers, Everywhere, "removes the overlay"),

    // Telling the user.
    call("write", libc::SYS_write, &[is(0, 1)], All, Everywhere, "prints the result; in a worker process standard output is the way to its parent"),
    call("write", libc::SYS_write, &[is(0, 2)], Writers, Everywhere, "prints errors, warnings, events, and progress as JSON"),
    call("ioctl", libc::SYS_ioctl, &[is(1, TIOCGWINSZ)], Writers, Everywhere, "asks how wide the terminal is, for the progress bar"),
    call("ioctl", libc::SYS_ioctl, &[is(1, TCGETS)], Writers, Everywhere, "asks whether there is a terminal, for the progress bar"),

    // Memory, never executable and never of a file.
    call("mmap", libc::SYS_mmap, &[lacks(2, EXECUTABLE), is(4, NO_FILE)], All, Everywhere, "memory: large blocks, stacks of threads"),
    call("munmap", libc::SYS_munmap, &[], All, Everywhere, "gives memory back"),
    call("mprotect", libc::SYS_mprotect, &[lacks(2, EXECUTABLE)], All, Everywhere, "opens up a thread's stack and heap as they grow"),
    call("madvise", libc::SYS_madvise, &[], All, Somewhere, "gives the memory of a thread's stack back, if the thread ends before the process"),
    call("brk", libc::SYS_brk, &[], All, Somewhere, "memory: small blocks; whether there are enough depends on the image"),
    call("mremap", libc::SYS_mremap, &[], All, Somewhere, "grows a large block; whether one grows depends on the image"),

    // Threads that copy, and the ends of threads and processes.
    call("clone", libc::SYS_clone, &[is(0, THREAD)], All, Everywhere, "starts a thread, and nothing but a thread"),
    call("clone", libc::SYS_clone, &[is(0, MUSL_THREAD)], All, Somewhere, "the same from musl"),
    call("clone3", libc::SYS_clone3, &[], All, Somewhere, "glibc from 2.34 on; answered with \"no such call\", so that clone is used, which can be looked at"),
    call("rt_sigaction", libc::SYS_rt_sigaction, &[is(0, GLIBC_SIGNAL)], All, Somewhere, "glibc from 2.34 on: part of starting the first thread"),
    call("set_robust_list", libc::SYS_set_robust_list, &[], All, Everywhere, "part of starting a thread"),
    call("rseq", libc::SYS_rseq, &[], All, Somewhere, "part of starting a thread from glibc 2.35 on"),
    call("sigaltstack", libc::SYS_sigaltstack, &[], All, Everywhere, "the stack on which an overflow of a thread's stack is noticed"),
    call("rt_sigprocmask", libc::SYS_rt_sigprocmask, &[], All, Everywhere, "no signals while a thread starts or ends"),
    call("sched_getaffinity", libc::SYS_sched_getaffinity, &[], All, Somewhere, "glibc: part of looking up where a thread's stack ends"),
    call("gettid", libc::SYS_gettid, &[], All, Somewhere, "names a thread in the message of a panic"),
    call("futex", libc::SYS_futex, &[], All, Somewhere, "waits for other threads where they are not done"),
    call("sched_yield", libc::SYS_sched_yield, &[], All, Somewhere, "lets another thread run that holds a lock"),
    call("membarrier", libc::SYS_membarrier, &[], All, Somewhere, "musl: part of changing what all threads see"),
    call("wait4", libc::SYS_wait4, &[], Writers, Everywhere, "takes note that worker processes have ended"),
    call("exit", libc::SYS_exit, &[], All, Somewhere, "ends a thread, if that comes before the end of the process"),
    call("exit_group", libc::SYS_exit_group, &[], All, Everywhere, "ends the process"),

    // Time.
    call("clock_nanosleep", libc::SYS_clock_nanosleep, &[], Writers, Everywhere, "waits where a rate limit says so"),
    call("nanosleep", libc::SYS_nanosleep, &[], Writers, Somewhere, "the same in older C libraries"),
    call("clock_gettime", libc::SYS_clock_gettime, &[], All, Somewhere, "the time, where the processor's own clock cannot be used"),
    call("restart_syscall", libc::SYS_restart_syscall, &[], All, Somewhere, "goes on waiting after the process was stopped and continued"),

    // Chance.
    call("getrandom", libc::SYS_getrandom, &[], All, Somewhere, "seeds hash tables and the C library's allocator"),
];
