//! Forks a process and has it become a guest.
#![expect(unsafe_code, reason = "making a process without a new program has no safe interface")]

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, c_ulong};
use rustix::process::Pid;

use super::child::{Move, Plan, TRACE_STEP, become_guest};
use super::tracee::{Event, Tracee};
use crate::jail::guest::{Cell, NAMESPACES};
use crate::jail::{self, Layer, Runner};
use crate::vm::error::{VmError, words};
use crate::vm::layout::{Access, Region};
use crate::vm::memory::GuestRam;

/// The longest report of what has failed.
const MAX_REPORT_BYTES: u64 = 256;

/// A guest's process, stopped before its first instruction, and what holds it.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) tracee: Tracee,
    pub(super) layers: Vec<Layer>,
}

/// Makes a process that has these regions of a shared memory and nothing else.
pub(super) fn spawn(ram: &GuestRam, regions: &[Region]) -> Result<Spawned, VmError> {
    jail::prepare(Runner::Process);
    let cell = Cell::new().map_err(|why| VmError::setup("making a filter for system calls", io::Error::other(why)))?;
    let moves = regions.iter().map(|region| place(ram, region)).collect::<Result<Vec<_>, _>>()?;
    let mut why_not_first = None;
    for namespaces in NAMESPACES {
        match attempt(&cell, &moves, ram.size_bytes(), namespaces) {
            Ok(tracee) => {
                let in_namespaces = if namespaces == 0 { Err(why_not_first.unwrap_or_default()) } else { Ok(()) };
                return Ok(Spawned { tracee, layers: cell.layers(in_namespaces) });
            }
            Err(error) if namespaces == 0 => return Err(error),
            Err(error) => {
                why_not_first.get_or_insert_with(|| reason(&error));
            }
        }
    }
    Err(VmError::Config("there is no way to make a process".into()))
}

/// Why there are no namespaces, and what would help.
fn reason(error: &VmError) -> String {
    let words = match error {
        VmError::Setup { source, .. } => words(source),
        other => other.to_string(),
    };
    format!("{words}; user namespaces have to be allowed (sysctl user.max_user_namespaces, a container's profile)")
}

fn place(ram: &GuestRam, region: &Region) -> Result<Move, VmError> {
    let slot = ram.slot();
    if !(slot.guest_address <= region.start && region.end <= slot.end()) {
        return Err(VmError::Config(format!("there is no memory at {:#x}", region.start)));
    }
    let number = |value| usize::try_from(value).map_err(|_| VmError::Config("memory too large".into()));
    Ok(Move {
        from: number(slot.host_address + (region.start - slot.guest_address))?,
        to: number(region.start)?,
        length: number(region.end - region.start)?,
        protection: match region.access {
            Access::Read => libc::PROT_READ,
            Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        },
    })
}

fn attempt(cell: &Cell, moves: &[Move], memory_bytes: u64, namespaces: c_int) -> Result<Tracee, VmError> {
    let failed = |error: io::Error| VmError::setup("starting a process", error);
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let report = writer.as_raw_fd();
    let plan = Plan { moves, memory_bytes, cell, in_namespaces: namespaces != 0, report };
    let keeps: Vec<RawFd> = cell.keeps(report);
    // Whoever traces this process has no business in the other, and there can be one tracer only.
    let flags = namespaces | libc::CLONE_UNTRACED | libc::SIGCHLD;
    // SAFETY: the new process has a copy of everything but the other threads, and runs on a copy of this stack.
    let number = unsafe { libc::syscall(libc::SYS_clone, c_ulong::from(flags.unsigned_abs()), 0, 0, 0, 0) };
    if number == 0 {
        // SAFETY: this is that process; the descriptors are those that the cell names, and the moves lie in shared memory.
        unsafe { become_guest(&plan, keeps) }
    }
    if number < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    let process = i32::try_from(number).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| failed(io::Error::other("its number is impossible")))?;
    drop(writer);
    let mut tracee = Tracee::new(process);
    loop {
        match tracee.wait()? {
            Event::Stopped(libc::SIGSEGV) => {
                let registers = tracee.registers()?;
                let is_gone = tracee.cause()?.address == Some(registers.rip);
                if registers.rax != 0 || !is_gone {
                    return Err(failed(io::Error::other("it could not give its memory back")));
                }
                tracee.bind()?;
                return Ok(tracee);
            }
            Event::Stopped(libc::SIGILL) => {
                return Err(failed(io::Error::other("the processor or the kernel does not let it empty itself")));
            }
            // Its clock, or somebody at the terminal.
            Event::Stopped(_) => tracee.go_on()?,
            Event::Exited(_) => return Err(refusal(&mut reader)),
            Event::Killed(signal) => return Err(failed(io::Error::other(format!("it was killed by signal {signal}")))),
        }
    }
}

/// What the process says of its end.
fn refusal(reader: &mut PipeReader) -> VmError {
    let mut report = Vec::new();
    // Without a report there is a reason less.
    let _ = reader.take(MAX_REPORT_BYTES).read_to_end(&mut report);
    let Some((errno, step)) = report.split_first_chunk::<4>() else {
        return VmError::setup("starting a process", io::Error::other("it ended early"));
    };
    let error = words(&io::Error::from_raw_os_error(i32::from_ne_bytes(*errno)));
    let step = String::from_utf8_lossy(step);
    if step == TRACE_STEP {
        return VmError::Unavailable(format!(
            "Could not run a guest in a process: tracing it is not allowed ({error}); allow a process to trace its children \
             (sysctl kernel.yama.ptrace_scope=1, in a container --cap-add SYS_PTRACE or a seccomp profile with ptrace), \
             or use KVM (--sandbox kvm)."
        ));
    }
    VmError::setup("starting a process", io::Error::other(format!("{step}: {error}")))
}
