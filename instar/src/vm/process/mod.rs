//! The sandbox without KVM: the very same guest program in a process that has the guest's memory and nothing else.
//!
//! The process is traced by this one. A guest's access to a device page, where nothing is mapped, stops it, and is answered as the
//! same access is in a virtual machine; so is a fault. A system call stops it too and is never carried out, and behind that
//! stands a filter which allows none. So a guest needs no change and no trust: it can compute, and access devices.

mod access;
mod child;
mod spawn;
mod tracee;

use instar_abi::memory::{MIN_MEMORY_BYTES, PAGE_BYTES, PROGRAM_END, PROGRAM_START, STACK_END};
use instar_abi::mmio::{CONTROL_START, DEVICE_START};
use libc::user_regs_struct;

use super::elf::Program;
use super::error::VmError;
use super::layout::{self, Region};
use super::machine::{BusAction, MmioBus, Run};
use super::memory::GuestRam;
use crate::jail::Layer;
use access::{Access, MAX_INSTRUCTION_BYTES, general};
use spawn::{Spawned, spawn};
use tracee::{Event, Tracee, killed};

/// A process with its program, before anything is known of its job.
#[derive(Debug)]
pub(super) struct ProcessPrepared {
    spawned: Spawned,
    ram: GuestRam,
    entry: u64,
}

impl ProcessPrepared {
    /// Makes a process with `memory_bytes` of memory around a guest program.
    pub(super) fn new(program: &Program<'_>, memory_bytes: u64) -> Result<Self, VmError> {
        let ram = GuestRam::shared(memory_bytes)?;
        program.load_from(PROGRAM_START, &ram)?;
        let spawned = spawn(&ram, &layout::regions(program, memory_bytes))?;
        ram.keep_to_this_process();
        Ok(Self { spawned, ram, entry: program.entry() })
    }

    /// Its memory.
    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// What holds the process.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.spawned.layers
    }

    /// Completes it with device pages for `device_count` devices.
    pub(super) fn complete(self, device_count: u32) -> ProcessMachine {
        let devices_end = DEVICE_START + u64::from(device_count) * PAGE_BYTES;
        ProcessMachine { tracee: self.spawned.tracee, ram: self.ram, entry: self.entry, devices_end, exits: 0 }
    }
}

/// Says what would hold a guest in a process here.
///
/// # Errors
/// [`VmError::Unavailable`] or [`VmError::Setup`] where no guest can run in one.
pub fn probe() -> Result<Vec<Layer>, VmError> {
    let ram = GuestRam::shared(MIN_MEMORY_BYTES)?;
    let stack = Region { start: STACK_END - PAGE_BYTES, end: STACK_END, access: layout::Access::ReadWrite };
    spawn(&ram, &[stack]).map(|spawned| spawned.layers)
}

/// A process that is ready to run.
#[derive(Debug)]
pub(super) struct ProcessMachine {
    tracee: Tracee,
    ram: GuestRam,
    entry: u64,
    devices_end: u64,
    exits: u64,
}

impl ProcessMachine {
    /// Its memory.
    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// How often it has stopped.
    pub(super) fn exits(&self) -> u64 {
        self.exits
    }

    /// Runs the guest until it is done.
    pub(super) fn run(&mut self, how: Run<'_>) -> Result<(), VmError> {
        let Run { bus, watchdog, after_request } = how;
        self.tracee.set_registers(&at_entry(self.tracee.registers()?, self.entry, self.ram.size_bytes()))?;
        watchdog.restart();
        loop {
            self.exits += 1;
            self.tracee.run()?;
            match self.tracee.wait()? {
                Event::Stopped(libc::SIGALRM) => watchdog.check()?,
                Event::Stopped(signal) if is_fault(signal) => {
                    let cause = self.tracee.cause()?;
                    if cause.was_sent {
                        continue;
                    }
                    let mut registers = self.tracee.registers()?;
                    let wanted = cause.address.filter(|_| cause.is_unmapped);
                    let action = wanted.map_or(Ok(None), |address| self.access(&mut registers, address, bus))?;
                    let Some(action) = action else {
                        return Err(VmError::Fault { instruction: Some(registers.rip), address: cause.address });
                    };
                    after_request(&self.ram);
                    if action == BusAction::Done {
                        return Ok(());
                    }
                    self.tracee.set_registers(&registers)?;
                    watchdog.restart();
                }
                // Somebody at the terminal means this process, not the guest.
                Event::Stopped(_) => {}
                Event::Killed(libc::SIGSYS) => return Err(VmError::Fault { instruction: None, address: None }),
                Event::Killed(signal) => return Err(killed(signal)),
                Event::Exited(status) => {
                    return Err(VmError::Exit(format!("the guest's process ended with status {status}")));
                }
            }
        }
    }

    /// Carries out an access to a device page; nothing where it is none. The registers are then those behind the instruction.
    fn access(
        &self,
        registers: &mut user_regs_struct,
        address: u64,
        bus: &mut dyn MmioBus,
    ) -> Result<Option<BusAction>, VmError> {
        let page = address - address % PAGE_BYTES;
        let is_device = page == CONTROL_START || (DEVICE_START..self.devices_end).contains(&page);
        let Some(access) = Access::decode(&self.code(registers.rip)).filter(|_| is_device) else { return Ok(None) };
        if page + PAGE_BYTES - address < access.width_bytes as u64 {
            return Ok(None);
        }
        let Some(register) = general(registers, access.register) else { return Ok(None) };
        let mut bytes = [0; 8];
        let action = if access.stores {
            bytes = register.to_le_bytes();
            bus.write(&self.ram, address, &bytes[..access.width_bytes])?
        } else {
            bus.read(&self.ram, address, &mut bytes[..access.width_bytes])?;
            // Half a register that is loaded clears the other half.
            *register = u64::from_le_bytes(bytes);
            BusAction::Continue
        };
        registers.rip += access.length_bytes;
        Ok(Some(action))
    }

    /// The instruction at an address; nothing outside of the program's place.
    fn code(&self, address: u64) -> Vec<u8> {
        let rest = if address < PROGRAM_START { 0 } else { PROGRAM_END.saturating_sub(address) };
        let mut code = vec![0; usize::try_from(rest).unwrap_or(0).min(MAX_INSTRUCTION_BYTES)];
        if self.ram.read_low(address, &mut code).is_err() {
            code.clear();
        }
        code
    }
}

/// Whether a signal says what the processor thinks of the guest. A system call that is tried shows as a trap.
fn is_fault(signal: i32) -> bool {
    matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP)
}

/// The registers at the start: as in a virtual machine, and nothing of the process that it was forked from. The entry is called with the
/// size of the memory.
fn at_entry(now: user_regs_struct, entry: u64, memory_bytes: u64) -> user_regs_struct {
    /// Bit 1 is always set, and interrupts are on for everything but the guest.
    const FLAGS: u64 = 1 << 1 | 1 << 9;
    /// No system call is under way.
    const NO_CALL: u64 = u64::MAX;
    user_regs_struct {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: memory_bytes,
        orig_rax: NO_CALL,
        rip: entry,
        eflags: FLAGS,
        // As if the entry had been called: its frame is aligned to 16 bytes after the return address.
        rsp: STACK_END - 8,
        fs_base: 0,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        cs: now.cs,
        ss: now.ss,
    }
}
