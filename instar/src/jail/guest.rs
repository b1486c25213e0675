//! The jail of a process in which a guest itself runs: no descriptor, no path, no other process, no network, and in the end no
//! system call.
//!
//! What takes memory or time is made before the process is forked ([`Cell::new`]). What is done inside of it
//! ([`Cell::close`]) is a row of bare system calls, so that it works whatever other threads held when it was forked.
#![expect(unsafe_code, reason = "bare system calls have no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long};
use seccompiler::sock_filter;

use super::descriptors;
use super::filter;
use super::layers::Layer;
use super::paths;

const NEW: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// Namespaces to be forked into, best first: those that anybody may make where the system lets him, those that an administrator
/// may make where users' are off, none.
pub(crate) const NAMESPACES: [c_int; 3] = [libc::CLONE_NEWUSER | NEW, NEW, 0];

/// Limits of such a process, all of which are 0.
const LIMITS: [(usize, &str); 6] = [
    (libc::RLIMIT_NOFILE as usize, "nothing is opened"),
    (libc::RLIMIT_NPROC as usize, "nothing is started"),
    (libc::RLIMIT_FSIZE as usize, "no file grows"),
    (libc::RLIMIT_CORE as usize, "guest memory, and with it pieces of images, would land in a core file"),
    (libc::RLIMIT_MSGQUEUE as usize, "it has no messages for anybody"),
    (libc::RLIMIT_MEMLOCK as usize, "it pins no memory"),
];

/// A step that the kernel has refused inside of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// What was being done.
    pub(crate) step: &'static str,
    /// The system's number for the reason.
    pub(crate) errno: i32,
}

/// Makes a system call.
///
/// # Safety
/// What the call needs of its arguments.
pub(crate) unsafe fn call(step: &'static str, number: c_long, arguments: [usize; 5]) -> Result<usize, Refusal> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the caller vouches for the arguments.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    usize::try_from(result).map_err(|_| Refusal { step, errno: io::Error::last_os_error().raw_os_error().unwrap_or(0) })
}

/// A jail for one process that does not exist yet.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Landlock's rules.
    rules: Option<OwnedFd>,
    landlock: Layer,
    filter: &'static [sock_filter],
    /// Where the kernel must not look any more.
    restartable: Option<(usize, usize)>,
}

impl Cell {
    /// Makes what a process needs that the calling thread will fork.
    ///
    /// # Errors
    /// If there is no filter for its system calls; why.
    pub(crate) fn new() -> Result<Self, String> {
        let filter = filter::of_guest()?;
        let (landlock, rules) = paths::rules_without_rights();
        Ok(Self { rules, landlock, filter, restartable: restartable_sequences() })
    }

    /// What holds the process, once it runs; in namespaces of its own, or why not.
    pub(crate) fn layers(&self, namespaces: Result<(), String>) -> Vec<Layer> {
        const NAMESPACES: &str = "namespaces of the guest";
        let namespaces = match namespaces {
            Ok(()) => Layer::active(NAMESPACES, ""),
            Err(reason) => Layer::missing(NAMESPACES, reason),
        };
        vec![namespaces, self.landlock.clone(), Layer::active("seccomp of the guest", "no call")]
    }

    /// What must be named to [`Cell::leave_behind`].
    pub(crate) fn keeps(&self, report: RawFd) -> Vec<RawFd> {
        self.rules.iter().map(AsRawFd::as_raw_fd).chain([report]).collect()
    }

    /// Inside: closes all descriptors but these.
    pub(crate) fn leave_behind(&self, keeps: Vec<RawFd>) {
        descriptors::close_all_but(keeps);
    }

    /// Inside: closes the jail. From then on only [`super::calls::GUEST_CALLS`] are possible. In namespaces of its own the process
    /// also gets a root directory in which there is nothing.
    pub(crate) fn close(&self, in_namespaces: bool) -> Result<(), Refusal> {
        if in_namespaces {
            empty_root()?;
        }
        let control = |step, option: c_int, value: usize| {
            // SAFETY: these options take numbers only.
            unsafe { call(step, libc::SYS_prctl, [option as usize, value, 0, 0, 0]) }
        };
        control("keeping it out of core files", libc::PR_SET_DUMPABLE, 0)?;
        control("keeping it from new privileges", libc::PR_SET_NO_NEW_PRIVS, 1)?;
        drop_capabilities()?;
        distrust_branches();
        if let Some((place, length)) = self.restartable {
            /// RSEQ_FLAG_UNREGISTER, and the signature that C libraries use.
            const UNREGISTER: usize = 1;
            const SIGNATURE: usize = 0x5305_3053;
            // SAFETY: takes a place off the kernel that the C library has given to it; a wrong one is refused.
            let _ = unsafe { call("", libc::SYS_rseq, [place, length, UNREGISTER, SIGNATURE, 0]) };
        }
        if let Some(rules) = &self.rules {
            let number = rules.as_raw_fd() as usize;
            // SAFETY: takes numbers only.
            unsafe { call("shutting paths", libc::SYS_landlock_restrict_self, [number, 0, 0, 0, 0])? };
            // SAFETY: closes what nobody uses any more; this process ends without dropping anything.
            unsafe { call("closing rules", libc::SYS_close, [number, 0, 0, 0, 0])? };
        }
        let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        for (resource, _) in LIMITS {
            let place = (&raw const nothing).addr();
            // SAFETY: the limit is read out of a variable that outlives the call.
            unsafe { call("setting limits", libc::SYS_prlimit64, [0, resource, place, 0, 0])? };
        }
        let length = self.filter.len();
        let program = libc::sock_fprog {
            len: u16::try_from(length).unwrap_or(0),
            filter: self.filter.as_ptr().cast_mut().cast(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
        // SAFETY: the program is read, and outlives the call.
        unsafe { call("filtering system calls", libc::SYS_seccomp, [mode, 0, (&raw const program).addr(), 0, 0])? };
        Ok(())
    }
}

/// Makes a directory the root in which there is nothing as soon as this process has no descriptors, and no more after its end.
fn empty_root() -> Result<(), Refusal> {
    const STEP: &str = "emptying its root directory";
    // SAFETY: the string ends with a zero and outlives the call.
    unsafe { call(STEP, libc::SYS_chroot, [c"/proc/self/fdinfo".as_ptr().addr(), 0, 0, 0, 0])? };
    // SAFETY: as above.
    unsafe { call(STEP, libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0])? };
    Ok(())
}

/// Gives up whatever the process may do as an administrator, of its own namespaces or of the machine.
fn drop_capabilities() -> Result<(), Refusal> {
    /// _LINUX_CAPABILITY_VERSION_3, for the calling process.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let (header, none) = (HEADER, [0u32; 6]);
    let (header, none) = ((&raw const header).addr(), (&raw const none).addr());
    // SAFETY: both are read out of variables that outlive the call.
    unsafe { call("dropping capabilities", libc::SYS_capset, [header, none, 0, 0, 0])? };
    Ok(())
}

/// Keeps what the guest teaches the processor's predictors away from the process that traces it, where that can be chosen; where
/// it cannot, the kernel has decided.
fn distrust_branches() {
    let (option, branches) = (libc::PR_SET_SPECULATION_CTRL as usize, libc::PR_SPEC_INDIRECT_BRANCH as usize);
    let never = libc::PR_SPEC_FORCE_DISABLE as usize;
    // SAFETY: takes numbers only.
    let _ = unsafe { call("", libc::SYS_prctl, [option, branches, never, 0, 0]) };
}

/// The place in which the C library wants to know of being interrupted, and its length. That place goes with the rest of the
/// memory, and the kernel ends a process that lacks it.
fn restartable_sequences() -> Option<(usize, usize)> {
    /// The shortest length that the kernel takes.
    const MIN_BYTES: usize = 32;
    let (offset, size): (*const isize, *const u32);
    // SAFETY: reads what the linker has put down: the addresses of two variables of the C library, shared or not, or zeros if it has none.
    unsafe {
        std::arch::asm!(
            ".weak __rseq_offset",
            ".weak __rseq_size",
            "mov {offset}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, qword ptr [rip + __rseq_size@GOTPCREL]",
            offset = out(reg) offset,
            size = out(reg) size,
            options(nostack, readonly, preserves_flags),
        );
    }
    if offset.is_null() || size.is_null() {
        return None;
    }
    // SAFETY: a variable of the C library, of this type and for reading.
    let offset = unsafe { offset.read() };
    // SAFETY: as above.
    let size = unsafe { size.read() };
    let thread: usize;
    // SAFETY: the thread's own block starts with its own address.
    unsafe {
        std::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) thread, options(nostack, readonly, preserves_flags));
    }
    Some((thread.wrapping_add_signed(offset), usize::try_from(size).unwrap_or(0).max(MIN_BYTES)))
}
