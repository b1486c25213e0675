//! A machine for a guest program, of one kind or the other: a virtual one of KVM's, or a process.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::elf::Program;
use super::error::VmError;
use super::kvm::Hypervisor;
use super::memory::{GuestRam, Slot};
use super::process::{ProcessMachine, ProcessPrepared};
use super::run::{KvmMachine, KvmPrepared};
use super::watchdog::Watchdog;
use crate::jail::{Layer, Runner};

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

/// What guest programs run on; several runs can share it, one after the other.
#[derive(Debug)]
pub enum Platform {
    /// KVM.
    Kvm(Hypervisor),
    /// Processes, which need no device but give the guest the kernel below to attack.
    Process,
}

impl Platform {
    /// Makes it ready for use.
    ///
    /// # Errors
    /// [`VmError::Unavailable`] with a sentence for the user.
    pub fn open(kind: Runner) -> Result<Self, VmError> {
        Ok(match kind {
            Runner::Kvm => Self::Kvm(Hypervisor::open()?),
            Runner::Process => Self::Process,
        })
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Runner {
        match self {
            Self::Kvm(_) => Runner::Kvm,
            Self::Process => Runner::Process,
        }
    }

    /// What watches a guest on it: it may run for `limit` without a request.
    ///
    /// # Errors
    /// [`VmError::Setup`].
    pub fn watchdog(&self, limit: Duration) -> Result<Watchdog, VmError> {
        match self {
            Self::Kvm(_) => Watchdog::start(limit),
            // A timer of its own stops the process.
            Self::Process => Ok(Watchdog::without_timer(limit)),
        }
    }

    /// The descriptor that it needs, if it needs one.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Kvm(hypervisor) => Some(hypervisor.as_raw_fd()),
            Self::Process => None,
        }
    }
}

/// What a run needs besides the machine.
pub struct Run<'a> {
    /// Answers accesses to device pages.
    pub bus: &'a mut dyn MmioBus,
    /// Knows how long the guest may run without such an access; the platform's.
    pub watchdog: &'a mut Watchdog,
    /// Is called after every access to a device page, with the memory.
    pub after_request: &'a mut dyn FnMut(&GuestRam),
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("watchdog", &self.watchdog).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Kinds<K, P> {
    Kvm(K),
    Process(P),
}

/// A machine with its program, before anything is known of its job.
#[derive(Debug)]
pub struct Prepared(Kinds<KvmPrepared, ProcessPrepared>);

impl Prepared {
    /// Builds a machine with `memory_bytes` of memory around a guest program.
    ///
    /// # Errors
    /// [`VmError::Unavailable`], [`VmError::Setup`], [`VmError::Program`] or [`VmError::Config`].
    pub fn new(platform: &Platform, program: &[u8], memory_bytes: u64) -> Result<Self, VmError> {
        Self::around(platform, &Program::parse(program)?, None, memory_bytes)
    }

    /// The same around a program that is there as long as this process: what of it is only read need not be copied.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn resident(platform: &Platform, program: &'static [u8], memory_bytes: u64) -> Result<Self, VmError> {
        let program = Program::parse(program)?;
        Self::around(platform, &program, program.constant_pages(), memory_bytes)
    }

    fn around(
        platform: &Platform,
        program: &Program<'_>,
        constants: Option<Slot>,
        memory_bytes: u64,
    ) -> Result<Self, VmError> {
        Ok(Self(match platform {
            Platform::Kvm(hypervisor) => Kinds::Kvm(KvmPrepared::new(hypervisor, program, constants, memory_bytes)?),
            Platform::Process => Kinds::Process(ProcessPrepared::new(program, memory_bytes)?),
        }))
    }

    /// How much memory it has, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        match &self.0 {
            Kinds::Kvm(machine) => machine.ram().size_bytes(),
            Kinds::Process(machine) => machine.ram().size_bytes(),
        }
    }

    /// Makes that much of its heap now, in bytes, rather than page by page when it is first used.
    pub fn make_heap(&self, length_bytes: u64) {
        match &self.0 {
            Kinds::Kvm(machine) => machine.ram().make_heap(length_bytes),
            Kinds::Process(machine) => machine.ram().make_heap(length_bytes),
        }
    }

    /// Does ahead what a machine does when it first runs, for one that has to wait for its job anyhow. It should run on the calling
    /// thread then.
    ///
    /// # Errors
    /// [`VmError::Setup`] or [`VmError::Exit`] where it cannot be entered; it is of no use then.
    pub fn enter_in_vain(&mut self, platform: &Platform) -> Result<(), VmError> {
        match (&mut self.0, platform) {
            (Kinds::Kvm(machine), Platform::Kvm(hypervisor)) => machine.enter_in_vain(hypervisor),
            _ => Ok(()),
        }
    }

    /// The descriptors that it needs.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        match &self.0 {
            Kinds::Kvm(machine) => machine.descriptors().to_vec(),
            Kinds::Process(_) => Vec::new(),
        }
    }

    /// What holds the guest besides the machine; of KVM's machines there is nothing to say.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        match &self.0 {
            Kinds::Kvm(_) => &[],
            Kinds::Process(machine) => machine.layers(),
        }
    }

    /// Completes the machine with device pages for `device_count` devices. `has_ciphers` says that the program has use for the
    /// processor's instructions for ciphers and hashes.
    ///
    /// # Errors
    /// [`VmError::Setup`] or [`VmError::Config`].
    pub fn complete(self, platform: &Platform, device_count: u32, has_ciphers: bool) -> Result<Vm, VmError> {
        Ok(Vm(match (self.0, platform) {
            (Kinds::Kvm(machine), Platform::Kvm(hypervisor)) => {
                Kinds::Kvm(machine.complete(hypervisor, device_count, has_ciphers)?)
            }
            (Kinds::Process(machine), Platform::Process) => Kinds::Process(machine.complete(device_count)),
            _ => return Err(VmError::Config("the machine is of another kind".into())),
        }))
    }
}

/// A machine that is ready to run.
#[derive(Debug)]
pub struct Vm(Kinds<KvmMachine, ProcessMachine>);

impl Vm {
    /// The machine's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        match &self.0 {
            Kinds::Kvm(machine) => machine.ram(),
            Kinds::Process(machine) => machine.ram(),
        }
    }

    /// How often the guest was left, for an access to a device or for anything else.
    #[must_use]
    pub fn exits(&self) -> u64 {
        match &self.0 {
            Kinds::Kvm(machine) => machine.exits(),
            Kinds::Process(machine) => machine.exits(),
        }
    }

    /// Runs the guest until it is done.
    ///
    /// # Errors
    /// Every way to end but by being done.
    pub fn run(&mut self, how: Run<'_>) -> Result<(), VmError> {
        match &mut self.0 {
            Kinds::Kvm(machine) => machine.run(how),
            Kinds::Process(machine) => machine.run(how),
        }
    }

    /// Takes the machine apart, or leaves that to the end of this process where it `ends_soon`.
    pub fn leave(self, ends_soon: bool) {
        match self.0 {
            // Nobody else may be there to take note that the process has ended.
            Kinds::Process(machine) => drop(machine),
            Kinds::Kvm(machine) if ends_soon => std::mem::forget(machine),
            // The kernel takes its time to take a machine apart, and the next session need not wait for that. Without a thread
            // it happens here: a closure that is not run is dropped, and the machine with it.
            Kinds::Kvm(machine) => drop(std::thread::Builder::new().spawn(move || drop(machine))),
        }
    }
}
