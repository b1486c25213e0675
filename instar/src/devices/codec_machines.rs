//! Machines that do nothing but unpack and pack clusters: the host gives them bytes of one form and takes those of the other.
//!
//! They have no devices and no job. What comes out of one is as hostile as what went in, and goes where the
//! bytes' image wanted it to go. Each is made before the jail closes; its thread starts when it is first needed.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use instar_abi::mmio::{CONTROL_START, control};
use tracing::warn;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::vm::{BusAction, DmaMemory, GuestRam, MmioBus, Run, Vm, VmError, Watchdog};

/// Some machines, from which each worker takes one while it needs it.
#[derive(Debug)]
pub struct CodecMachines {
    idle: Mutex<Vec<CodecMachine>>,
    count: usize,
}

impl CodecMachines {
    /// Takes machines that have not run yet. One that is busy for longer than `limit` is given up.
    #[must_use]
    pub fn new(machines: Vec<Vm>, limit: Duration) -> Self {
        let count = machines.len();
        let idle = machines.into_iter().map(|vm| CodecMachine::new(vm, limit)).collect();
        Self { idle: Mutex::new(idle), count }
    }

    /// How many there were at the beginning.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Lends a machine.
    ///
    /// # Errors
    /// `ENODEV` if none is left; those of `work`.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&mut CodecMachine) -> Result<T, io::Error>) -> Result<T, io::Error> {
        let lock = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut machine = taken.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let result = work(&mut machine);
        if !matches!(machine.state, State::GivenUp) {
            lock().push(machine);
        }
        result
    }
}

/// One machine.
#[derive(Debug)]
pub(super) struct CodecMachine {
    memory: DmaMemory,
    limit: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    New(Box<Vm>),
    Running { go: SyncSender<()>, done: Receiver<Result<(), VmError>> },
    GivenUp,
}

impl CodecMachine {
    fn new(vm: Vm, limit: Duration) -> Self {
        Self { memory: vm.ram().dma().clone(), limit, state: State::New(Box::new(vm)) }
    }

    /// The memory that host and machine share.
    pub(super) fn memory(&self) -> &DmaMemory {
        &self.memory
    }

    /// Has the machine do what its memory says.
    ///
    /// # Errors
    /// If it cannot; it is of no use any more then.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let result = self.try_run();
        if let Err(error) = &result {
            warn!(%error, "a machine that packs and unpacks is given up");
            self.state = State::GivenUp;
        }
        result
    }

    fn try_run(&mut self) -> io::Result<()> {
        if let State::New(_) = self.state {
            self.state = start(std::mem::replace(&mut self.state, State::GivenUp), self.limit)?;
        }
        let State::Running { go, done } = &self.state else { return Err(io::Error::from_raw_os_error(libc::ENODEV)) };
        go.send(()).map_err(io::Error::other)?;
        // A machine that does not come back cannot be stopped from here; it ends with the process.
        done.recv_timeout(self.limit).map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

/// Starts the thread of a machine that has none yet.
fn start(state: State, limit: Duration) -> io::Result<State> {
    let State::New(mut vm) = state else { return Ok(state) };
    let (go, batches) = sync_channel(1);
    let (answers, done) = sync_channel(1);
    thread::Builder::new().spawn(move || {
        let mut watchdog = Watchdog::without_timer(limit);
        while batches.recv().is_ok() {
            let run = Run { bus: &mut Mailbox, watchdog: &mut watchdog, after_request: &mut |_| () };
            let result = vm.run(run);
            let is_over = result.is_err();
            if answers.send(result).is_err() || is_over {
                break;
            }
        }
    })?;
    Ok(State::Running { go, done })
}

/// All that such a machine has in the way of registers.
struct Mailbox;

impl MmioBus for Mailbox {
    fn read(&mut self, _ram: &GuestRam, address: u64, _data: &mut [u8]) -> Result<(), VmError> {
        Err(nothing_there(address))
    }

    fn write(&mut self, ram: &GuestRam, address: u64, data: &[u8]) -> Result<BusAction, VmError> {
        match address.checked_sub(CONTROL_START) {
            Some(control::BATCH_DONE) => Ok(BusAction::Done),
            Some(control::PANIC) => Err(super::bus::last_words(ram, data)),
            _ => Err(nothing_there(address)),
        }
    }
}

fn nothing_there(address: u64) -> VmError {
    VmError::Protocol(format!("the program that packs and unpacks spoke to {address:#x}, where there is nothing"))
}

/// A piece of memory.
///
/// # Errors
/// `EFAULT` if it is not all there.
pub(super) fn slice(memory: &DmaMemory, address: u64, length: u32) -> io::Result<VolatileSlice<'_>> {
    let length = usize::try_from(length).map_err(|_| fault())?;
    GuestMemoryBackend::get_slice(memory, GuestAddress(address), length).map_err(|_| fault())
}

pub(super) fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}
