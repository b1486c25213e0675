//! What a process does from being forked to becoming a guest: it has itself traced, moves the guest's memory to the guest's
//! addresses, goes to its jail, and gives everything else back, this code last.
//!
//! Allocates nothing and takes no lock: it may have been forked from one of several threads.
#![expect(clippy::cast_possible_truncation, reason = "an address is 64 bits wide here")]
#![expect(unsafe_code, reason = "becoming another process has no safe interface")]

use std::arch::asm;
use std::os::fd::RawFd;

use instar_abi::memory::{MAX_MEMORY_BYTES, PROGRAM_START};

use crate::jail::calls::ADDRESSES_END;
use crate::jail::guest::{Cell, Refusal, call};

/// The step that fails where processes cannot be traced.
pub(super) const TRACE_STEP: &str = "tracing it";
/// How often the tracer gets the chance to look at the clock, in microseconds.
const TICK_MICROSECONDS: i64 = 100_000;
/// Where the last descriptor lies when the jail closes.
const LAST_DESCRIPTOR: RawFd = 0;

/// A piece of shared memory: where it lies when the process is forked, and where the guest will find it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) length: usize,
    pub(super) protection: i32,
}

/// Everything that the process needs to know.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) moves: &'a [Move],
    /// Where the guest's memory ends.
    pub(super) memory_bytes: u64,
    pub(super) cell: &'a Cell,
    pub(super) in_namespaces: bool,
    /// Where it says what has failed; the other end is its parent's alone.
    pub(super) report: RawFd,
}

/// Processor state that holds nothing: all extended registers as they are after a reset.
#[repr(C, align(64))]
struct Blank {
    legacy_head: [u32; 6],
    mxcsr: u32,
    rest: [u32; 137],
}

static BLANK: Blank = Blank { legacy_head: [0; 6], mxcsr: 0x1f80, rest: [0; 137] };

/// Becomes a guest, which stops at once for its tracer; or says why not and ends.
///
/// # Safety
/// To be called in a process that was just forked, with descriptors that `keeps` names and memory as `plan` describes it.
pub(super) unsafe fn become_guest(plan: &Plan<'_>, keeps: Vec<RawFd>) -> ! {
    // SAFETY: the caller vouches for what it needs.
    let refusal = match unsafe { prepare(plan, keeps) } {
        Ok(()) => vanish(),
        Err(refusal) => refusal,
    };
    let report = if refusal.step == FIRST_STEP { plan.report } else { LAST_DESCRIPTOR };
    let errno = refusal.errno.to_ne_bytes();
    for bytes in [&errno[..], refusal.step.as_bytes()] {
        // SAFETY: the bytes are read, and outlive the call.
        let _ = unsafe { call("", libc::SYS_write, [report as usize, bytes.as_ptr().addr(), bytes.len(), 0, 0]) };
    }
    // SAFETY: ends the process without dropping what the parent's memory holds here.
    unsafe { libc::_exit(1) }
}

const FIRST_STEP: &str = "tying it to its parent";

unsafe fn prepare(plan: &Plan<'_>, keeps: Vec<RawFd>) -> Result<(), Refusal> {
    let (death, kill) = (libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize);
    // SAFETY: takes numbers only.
    unsafe { call(FIRST_STEP, libc::SYS_prctl, [death, kill, 0, 0, 0])? };
    plan.cell.leave_behind(keeps);
    if plan.report != LAST_DESCRIPTOR {
        let (from, to) = (plan.report as usize, LAST_DESCRIPTOR as usize);
        // SAFETY: nobody uses either number but this code.
        unsafe { call(FIRST_STEP, libc::SYS_dup3, [from, to, 0, 0, 0])? };
        // SAFETY: as above.
        unsafe { call("closing descriptors", libc::SYS_close, [from, 0, 0, 0, 0])? };
    }
    end_with_parent();
    // SAFETY: takes numbers only.
    unsafe { call(TRACE_STEP, libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0, 0])? };
    tick()?;
    reserve(plan.memory_bytes)?;
    for piece in plan.moves {
        // SAFETY: the caller vouches for the memory.
        unsafe { settle(piece)? };
    }
    plan.cell.close(plan.in_namespaces)
}

/// A parent that has died before its death could be told leaves a report that nobody reads.
fn end_with_parent() {
    let mut report = libc::pollfd { fd: LAST_DESCRIPTOR, events: 0, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (place, time) = ((&raw mut report).addr(), (&raw const now).addr());
    // SAFETY: both are variables that outlive the call.
    let _ = unsafe { call("", libc::SYS_ppoll, [place, 1, time, 0, 0]) };
    if report.revents & libc::POLLERR != 0 {
        // SAFETY: ends the process without dropping what the parent's memory holds here.
        unsafe { libc::_exit(1) }
    }
}

/// Has the process interrupted for its tracer again and again, whatever the guest does.
fn tick() -> Result<(), Refusal> {
    const STEP: &str = "setting its clock";
    let none = 0u64;
    let (how, place, length) = (libc::SIG_SETMASK as usize, (&raw const none).addr(), size_of_val(&none));
    // SAFETY: the mask is read out of a variable that outlives the call.
    unsafe { call(STEP, libc::SYS_rt_sigprocmask, [how, place, 0, length, 0])? };
    let period = libc::timeval { tv_sec: 0, tv_usec: TICK_MICROSECONDS };
    let timer = libc::itimerval { it_interval: period, it_value: period };
    let (clock, place) = (libc::ITIMER_REAL as usize, (&raw const timer).addr());
    // SAFETY: the setting is read out of a variable that outlives the call.
    unsafe { call(STEP, libc::SYS_setitimer, [clock, place, 0, 0, 0])? };
    Ok(())
}

/// Makes sure that nothing lies where the guest's memory will be, and that nothing comes there meanwhile.
fn reserve(memory_bytes: u64) -> Result<(), Refusal> {
    let (start, end) = (PROGRAM_START as usize, memory_bytes as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let place = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: takes addresses that are free, or none: the flag keeps everything that is there. Older kernels do not know the
    // flag and choose another place, where nothing is lost either.
    let reserved = unsafe { libc::mmap(place, end - start, libc::PROT_NONE, flags, -1, 0) };
    if reserved != place {
        return Err(Refusal { step: "clearing the guest's addresses", errno: libc::EEXIST });
    }
    let rest = MAX_MEMORY_BYTES as usize - end;
    if rest > 0 {
        // SAFETY: this program lies at high addresses, or its part of this would be missed at once: here, nothing else counts.
        unsafe { call("clearing the guest's addresses", libc::SYS_munmap, [end, rest, 0, 0, 0])? };
    }
    Ok(())
}

/// Moves a piece of memory to where the guest will find it.
unsafe fn settle(piece: &Move) -> Result<(), Refusal> {
    const STEP: &str = "moving memory to the guest's addresses";
    let Move { from, to, length, protection } = *piece;
    let moving = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize;
    // SAFETY: the source is memory of the parent's that is used for nothing else here, and the target is reserved.
    unsafe { call(STEP, libc::SYS_mremap, [from, length, length, moving, to])? };
    // SAFETY: the memory is the guest's alone from here on.
    unsafe { call(STEP, libc::SYS_mprotect, [to, length, protection as usize, 0, 0])? };
    Ok(())
}

/// Empties the registers that hold data, closes the last descriptor, and gives all memory back that is not the guest's. The next
/// instruction does not exist any more: the process stops for its tracer, with a result of 0.
fn vanish() -> ! {
    const _: () = assert!(PROGRAM_START < MAX_MEMORY_BYTES && MAX_MEMORY_BYTES < ADDRESSES_END);
    // SAFETY: nothing of this process is needed any more. Should the last call fail, an undefined instruction stops the process.
    unsafe {
        asm!(
            "xrstor64 [r14]",
            "mov eax, {close}",
            "mov edi, {last}",
            "syscall",
            "mov eax, {munmap}",
            "mov rdi, r12",
            "mov rsi, r13",
            "syscall",
            "ud2",
            close = const libc::SYS_close,
            last = const LAST_DESCRIPTOR,
            munmap = const libc::SYS_munmap,
            in("r12") MAX_MEMORY_BYTES,
            in("r13") ADDRESSES_END - MAX_MEMORY_BYTES,
            in("r14") &raw const BLANK,
            in("eax") u32::MAX,
            in("edx") u32::MAX,
            options(noreturn),
        )
    }
}
