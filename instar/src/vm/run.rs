//! A machine of KVM's with one processor: loads a program, runs it, and passes device accesses on.
#![expect(unsafe_code, reason = "giving memory to a virtual machine has no safe interface")]

use std::os::fd::{AsRawFd, RawFd};

use instar_abi::memory::{PAGE_BYTES, PROGRAM_START};
use instar_abi::mmio::{CONTROL_START, DEVICE_START};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::elf::Program;
use super::error::VmError;
use super::kvm::Hypervisor;
use super::layout::{self, Access};
use super::machine::{BusAction, Run};
use super::memory::{GuestRam, Slot};
use super::paging::PageTables;
use super::registers;

/// A virtual machine that is ready to run.
#[derive(Debug)]
pub(super) struct KvmMachine {
    // In the order of dropping: the processor and the machine go before the memory that they use.
    vcpu: VcpuFd,
    _vm: VmFd,
    ram: GuestRam,
    exits: u64,
}

/// A machine with its program, before anything is known of its job.
#[derive(Debug)]
pub(super) struct KvmPrepared {
    vcpu: VcpuFd,
    vm: VmFd,
    ram: GuestRam,
    tables: PageTables,
    entry: u64,
}

impl KvmPrepared {
    /// Builds a machine with `memory_bytes` of memory around a guest program, whose `constants` it reads where they are.
    pub(super) fn new(
        hypervisor: &Hypervisor,
        program: &Program<'_>,
        constants: Option<Slot>,
        memory_bytes: u64,
    ) -> Result<Self, VmError> {
        let ram = GuestRam::new(memory_bytes)?;
        let lent = constants.filter(|constants| ram.lend(*constants));
        program.load_from(lent.map_or(PROGRAM_START, |constants| constants.end()), &ram)?;
        let mut tables = PageTables::new();
        for region in layout::regions(program, memory_bytes) {
            tables.map(region.start, region.end, region.access)?;
        }
        tables.map(CONTROL_START, CONTROL_START + PAGE_BYTES, Access::ReadWrite)?;
        ram.keep_to_this_process();

        let vm = hypervisor.create_vm()?;
        let slot = ram.slot();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: slot.guest_address,
            memory_size: slot.length_bytes,
            userspace_addr: slot.host_address,
        };
        // SAFETY: the memory belongs to `ram`, which this value owns and drops after the machine.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|error| VmError::setup("giving memory to the virtual machine", error))?;
        hypervisor.keep_interrupts_away(&vm);
        let vcpu = vm.create_vcpu(0).map_err(|error| VmError::setup("making a virtual processor", error))?;
        registers::enter_ring_3(&vcpu, program.entry(), memory_bytes, &[])?;
        Ok(Self { vcpu, vm, ram, tables, entry: program.entry() })
    }

    /// The machine's memory.
    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Has KVM do now what it otherwise does when a machine's processor is entered for the first time, which takes a while: making a
    /// thread of its own. Not an instruction of the guest is carried out.
    pub(super) fn enter_in_vain(&mut self, hypervisor: &Hypervisor) -> Result<(), VmError> {
        if !hypervisor.can_leave_at_once() {
            return Ok(());
        }
        self.vcpu.set_kvm_immediate_exit(1);
        // It ends as if a signal had come.
        match self.vcpu.run() {
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Err(VmError::setup("entering the virtual processor", error)),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => return Err(VmError::Exit(format!("unexpected exit {other:?} before the first instruction"))),
        }
        self.vcpu.set_kvm_immediate_exit(0);
        Ok(())
    }

    /// The descriptors that it needs.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.vm.as_raw_fd(), self.vcpu.as_raw_fd()]
    }

    /// Completes the machine with device pages for `device_count` devices. `has_ciphers` gives it the processor's instructions
    /// for ciphers and hashes; finding out about them takes a while.
    pub(super) fn complete(
        mut self,
        hypervisor: &Hypervisor,
        device_count: u32,
        has_ciphers: bool,
    ) -> Result<KvmMachine, VmError> {
        let end = DEVICE_START + u64::from(device_count) * PAGE_BYTES;
        self.tables.map(DEVICE_START, end, Access::ReadWrite)?;
        for (address, page) in self.tables.pages() {
            self.ram.write_low(address, &page)?;
        }
        if has_ciphers {
            registers::enter_ring_3(&self.vcpu, self.entry, self.ram.size_bytes(), &hypervisor.processor())?;
        }
        Ok(KvmMachine { vcpu: self.vcpu, _vm: self.vm, ram: self.ram, exits: 0 })
    }
}

impl KvmMachine {
    /// The machine's memory.
    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// How often the processor has left the guest.
    pub(super) fn exits(&self) -> u64 {
        self.exits
    }

    /// Runs the guest until it is done.
    pub(super) fn run(&mut self, how: Run<'_>) -> Result<(), VmError> {
        let Run { bus, watchdog, after_request } = how;
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

#[cfg(test)]
mod tests {
    use instar_abi::memory::MIN_MEMORY_BYTES;

    use super::*;
    use crate::kvm_of_tests::without_kvm;

    #[test]
    fn a_machine_that_is_entered_in_vain_has_done_nothing() {
        if without_kvm("a_machine_that_is_entered_in_vain_has_done_nothing") {
            return;
        }
        let hypervisor = Hypervisor::open().expect("KVM");
        assert!(hypervisor.can_leave_at_once(), "KVM_CAP_IMMEDIATE_EXIT");
        // Without page tables even the first instruction would be a fault that cannot be told of.
        let program = Program::parse(crate::program::codec()).expect("a program");
        let mut machine = KvmPrepared::new(&hypervisor, &program, None, MIN_MEMORY_BYTES).expect("a machine");
        let registers = |machine: &KvmPrepared| machine.vcpu.get_regs().expect("registers");
        let before = registers(&machine);
        machine.enter_in_vain(&hypervisor).expect("left at once");
        assert_eq!(registers(&machine), before);
        assert_eq!(before.rip, program.entry());
    }
}
