//! One virtual machine with one processor: loads a program, runs it, and passes device accesses on.
#![expect(unsafe_code, reason = "giving memory to a virtual machine has no safe interface")]

use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use instar_abi::memory::{
    DEVICES_BYTES, DEVICES_START, HEAP_START, JOB_BYTES, JOB_START, PAGE_BYTES, REPORT_BYTES, REPORT_START,
    SHARED_BYTES, SHARED_START, STACK_END, STACK_START,
};
use instar_abi::mmio::{CONTROL_START, DEVICE_START};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::elf;
use super::error::VmError;
use super::kvm::Hypervisor;
use super::memory::{GuestRam, Slot};
use super::paging::{Access, PageTables};
use super::registers;
use super::watchdog::Watchdog;

/// What the run loop does after an access to a device page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusAction {
    /// Goes on with the guest.
    Continue,
    /// The guest has said that it is done.
    Done,
}

/// What answers accesses to device pages.
pub trait MmioBus {
    /// Answers a read of `data.len()` bytes at a guest address.
    ///
    /// # Errors
    /// Those that end the run.
    fn read(&mut self, ram: &GuestRam, address: u64, data: &mut [u8]) -> Result<(), VmError>;

    /// Takes a write at a guest address.
    ///
    /// # Errors
    /// Those that end the run.
    fn write(&mut self, ram: &GuestRam, address: u64, data: &[u8]) -> Result<BusAction, VmError>;
}

/// A virtual machine that is ready to run.
#[derive(Debug)]
pub struct Vm {
    // In the order of dropping: the processor and the machine go before the memory that they use.
    vcpu: VcpuFd,
    _vm: VmFd,
    ram: GuestRam,
    exits: u64,
}

/// A machine with its program, before anything is known of its job.
#[derive(Debug)]
pub struct Prepared {
    vcpu: VcpuFd,
    vm: VmFd,
    ram: GuestRam,
    tables: PageTables,
    entry: u64,
}

impl Prepared {
    /// Builds a machine with `memory_bytes` of memory around a guest program.
    ///
    /// # Errors
    /// [`VmError::Unavailable`], [`VmError::Setup`], [`VmError::Program`] or [`VmError::Config`].
    pub fn new(hypervisor: &Hypervisor, program: &[u8], memory_bytes: u64) -> Result<Self, VmError> {
        let ram = GuestRam::new(memory_bytes)?;
        let program = elf::Program::parse(program)?;
        let mut tables = PageTables::new();
        program.load(&ram, &mut tables)?;
        tables.map(JOB_START, JOB_START + JOB_BYTES, Access::Read)?;
        tables.map(DEVICES_START, DEVICES_START + DEVICES_BYTES, Access::Read)?;
        tables.map(SHARED_START, SHARED_START + SHARED_BYTES, Access::ReadWrite)?;
        tables.map(REPORT_START, REPORT_START + REPORT_BYTES, Access::ReadWrite)?;
        tables.map(STACK_START, STACK_END, Access::ReadWrite)?;
        tables.map(HEAP_START, memory_bytes, Access::ReadWrite)?;
        tables.map(CONTROL_START, CONTROL_START + PAGE_BYTES, Access::ReadWrite)?;

        let vm = hypervisor.create_vm()?;
        for (number, slot) in (0..).zip(ram.slots()?) {
            let region = kvm_userspace_memory_region {
                slot: number,
                flags: 0,
                guest_phys_addr: slot.guest_address,
                memory_size: slot.length_bytes,
                userspace_addr: slot.host_address,
            };
            keep_to_this_process(&slot);
            // SAFETY: the memory belongs to `ram`, which this value owns and drops after the machine, and no two slots overlap.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(|error| VmError::setup("giving memory to the virtual machine", error))?;
        }
        hypervisor.keep_interrupts_away(&vm);
        let vcpu = vm.create_vcpu(0).map_err(|error| VmError::setup("making a virtual processor", error))?;
        registers::enter_ring_3(&vcpu, program.entry(), &[])?;
        Ok(Self { vcpu, vm, ram, tables, entry: program.entry() })
    }

    /// How much memory it has, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.ram.size_bytes()
    }

    /// The descriptors that it needs.
    #[must_use]
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.vm.as_raw_fd(), self.vcpu.as_raw_fd()]
    }

    /// Completes the machine with device pages for `device_count` devices. `has_ciphers` gives it the processor's instructions
    /// for ciphers and hashes; finding out about them takes a while.
    ///
    /// # Errors
    /// [`VmError::Setup`] or [`VmError::Config`].
    pub fn complete(mut self, hypervisor: &Hypervisor, device_count: u32, has_ciphers: bool) -> Result<Vm, VmError> {
        let end = DEVICE_START + u64::from(device_count) * PAGE_BYTES;
        self.tables.map(DEVICE_START, end, Access::ReadWrite)?;
        for (address, page) in self.tables.pages() {
            self.ram.write_low(address, &page)?;
        }
        if has_ciphers {
            registers::enter_ring_3(&self.vcpu, self.entry, &hypervisor.processor())?;
        }
        Ok(Vm { vcpu: self.vcpu, _vm: self.vm, ram: self.ram, exits: 0 })
    }
}

impl Vm {
    /// The machine's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// How often the processor has left the guest.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// Runs the guest until it is done. `after_request` is called after every access to a device page, with the memory.
    ///
    /// # Errors
    /// Every way to end but by being done.
    pub fn run(
        &mut self,
        bus: &mut dyn MmioBus,
        watchdog: &mut Watchdog,
        after_request: &mut dyn FnMut(&GuestRam),
    ) -> Result<(), VmError> {
        watchdog.restart();
        loop {
            self.exits += 1;
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    watchdog.check()?;
                    continue;
                }
                Err(error) => return Err(VmError::setup("running the virtual processor", error)),
            };
            let action = match exit {
                VcpuExit::MmioRead(address, data) => {
                    bus.read(&self.ram, address, data)?;
                    BusAction::Continue
                }
                VcpuExit::MmioWrite(address, data) => bus.write(&self.ram, address, data)?,
                VcpuExit::Intr => {
                    watchdog.check()?;
                    continue;
                }
                VcpuExit::Shutdown => return Err(self.fault()),
                VcpuExit::InternalError => {
                    return Err(VmError::Exit(format!("KVM could not go on{}", self.place())));
                }
                other => {
                    let name = format!("{other:?}");
                    return Err(VmError::Exit(format!("unexpected exit {name}{}", self.place())));
                }
            };
            after_request(&self.ram);
            if action == BusAction::Done {
                return Ok(());
            }
            watchdog.restart();
        }
    }

    fn place(&self) -> String {
        self.vcpu
            .get_regs()
            .map_or_else(|_| String::new(), |registers| format!(" (instruction at {:#x})", registers.rip))
    }

    /// Where the fault was. Processors of one maker are reset by it, which shows as an instruction outside of the program.
    fn fault(&self) -> VmError {
        let instruction = self.vcpu.get_regs().ok().map(|registers| registers.rip);
        let address = self.vcpu.get_sregs().ok().map(|registers| registers.cr2);
        match instruction {
            Some(0xfff0) | None => VmError::Fault { instruction: None, address: None },
            Some(_) => VmError::Fault { instruction, address: address.filter(|address| *address != 0) },
        }
    }
}

/// Whatever a guest works on, keys among it, is nobody's business after a crash of this program, nor that of a process that is
/// forked from it.
fn keep_to_this_process(slot: &Slot) {
    let (Ok(start), Ok(length)) = (usize::try_from(slot.host_address), usize::try_from(slot.length_bytes)) else {
        return;
    };
    let start = ptr::with_exposed_provenance_mut(start);
    for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
        // SAFETY: the range is a mapping of this program, and the advice changes nothing that it holds.
        unsafe { libc::madvise(start, length, advice) };
    }
}
