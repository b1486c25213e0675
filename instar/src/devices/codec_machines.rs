//! Machines that do nothing but unpack and pack clusters: the host gives them bytes of one form and takes those of the other.
//!
//! They have no devices and no job. What comes out of one is as hostile as what went in, and goes where the
//! bytes' image wanted it to go. Each is made before the jail closes; its thread starts when it is first needed.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use instar_abi::codec_machine::{
    PACKED_BYTES, PACKED_IN_SLOT, SLOTS, TABLE_BYTES, TURN_START, UNPACKED_BYTES, UNPACKED_IN_SLOT, slot_start,
};
use instar_abi::mmio::{CONTROL_START, control};
use tracing::warn;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::vm::{BusAction, DmaMemory, GuestRam, MmioBus, Run, Vm, VmError, Watchdog};

/// Some machines, of which each worker takes a slot while it needs it.
#[derive(Debug)]
pub struct CodecMachines {
    /// The slots of each machine that nobody has; `None` for a machine that was given up.
    idle: Mutex<Vec<Option<Vec<Slot>>>>,
    slot_count: usize,
}

impl CodecMachines {
    /// Takes machines that have not run yet. One that is busy with a batch for longer than `limit` is given up.
    #[must_use]
    pub fn new(machines: Vec<Vm>, limit: Duration) -> Self {
        let idle: Vec<_> = machines.into_iter().enumerate().map(|(number, vm)| slots(number, vm, limit)).collect();
        let slot_count = idle.iter().map(Vec::len).sum();
        Self { idle: Mutex::new(idle.into_iter().map(Some).collect()), slot_count }
    }

    /// How many slots all of them had at the beginning: so many workers can be at it together.
    pub(super) fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// Lends a slot, of the machine that has the least to do.
    ///
    /// # Errors
    /// `ENODEV` if none is left; those of `work`.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&mut Slot) -> Result<T, io::Error>) -> Result<T, io::Error> {
        let taken = self.idle().iter_mut().flatten().max_by_key(|slots| slots.len()).and_then(Vec::pop);
        let mut slot = taken.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let result = work(&mut slot);
        if let Some(slots) = self.idle().get_mut(slot.machine_number) {
            match slots {
                _ if slot.is_given_up => *slots = None,
                Some(slots) => slots.push(slot),
                None => {}
            }
        }
        result
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Option<Vec<Slot>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine's slots, all of them idle.
fn slots(machine_number: usize, vm: Vm, limit: Duration) -> Vec<Slot> {
    let memory = vm.ram().dma().clone();
    let (answers, done): (Vec<_>, Vec<_>) = (0..SLOTS).map(|_| sync_channel(1)).unzip();
    let machine = Arc::new(Mutex::new(State::New(Box::new(vm), answers)));
    let slot = |(number, done)| Slot {
        machine: Arc::clone(&machine),
        machine_number,
        number,
        done,
        memory: memory.clone(),
        limit,
        is_given_up: false,
    };
    (0..SLOTS).zip(done).map(slot).collect()
}

/// How a batch ended.
type Answer = Result<(), VmError>;

/// What a machine is about.
#[derive(Debug)]
enum State {
    /// It has not run yet; where to tell each slot that it is done.
    New(Box<Vm>, Vec<SyncSender<Answer>>),
    /// Its thread takes the numbers of slots, in their order.
    Running(SyncSender<u32>),
    /// It could not be started.
    Failed,
}

/// One of the places in a machine's memory where a batch can lie.
#[derive(Debug)]
pub(super) struct Slot {
    machine: Arc<Mutex<State>>,
    machine_number: usize,
    number: u32,
    done: Receiver<Answer>,
    memory: DmaMemory,
    limit: Duration,
    is_given_up: bool,
}

impl Slot {
    /// Which machine it belongs to, from 0 on.
    #[cfg(test)]
    pub(super) fn machine_number(&self) -> usize {
        self.machine_number
    }

    /// Puts the table into its place.
    ///
    /// # Errors
    /// `EFAULT` if there is no room.
    pub(super) fn write_table(&self, table: &[u8]) -> io::Result<()> {
        self.place(0, TABLE_BYTES, 0, table.len() as u64)?.copy_from(table);
        Ok(())
    }

    /// Takes the start of the table, as the machine has left it.
    ///
    /// # Errors
    /// As [`Slot::write_table`].
    pub(super) fn read_table(&self, table: &mut [u8]) -> io::Result<()> {
        self.place(0, TABLE_BYTES, 0, table.len() as u64)?.copy_to(table);
        Ok(())
    }

    /// A part of the packed bytes.
    ///
    /// # Errors
    /// `EFAULT` if it is not all there.
    pub(super) fn packed(&self, offset: u64, length: u32) -> io::Result<VolatileSlice<'_>> {
        self.place(PACKED_IN_SLOT, PACKED_BYTES, offset, length.into())
    }

    /// A part of the unpacked bytes.
    ///
    /// # Errors
    /// `EFAULT` if it is not all there.
    pub(super) fn unpacked(&self, offset: u64, length: u32) -> io::Result<VolatileSlice<'_>> {
        self.place(UNPACKED_IN_SLOT, UNPACKED_BYTES, offset, length.into())
    }

    fn place(&self, start: u64, room_bytes: u64, offset: u64, length: u64) -> io::Result<VolatileSlice<'_>> {
        offset.checked_add(length).filter(|end| *end <= room_bytes).ok_or_else(fault)?;
        let address = slot_start(self.number) + start + offset;
        slice(&self.memory, address, u32::try_from(length).map_err(|_| fault())?)
    }

    /// Has the machine do what the slot says, after what it has been given before.
    ///
    /// # Errors
    /// If it cannot; it is of no use any more then.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let result = self.try_run();
        if let Err(error) = &result {
            warn!(%error, "a machine that packs and unpacks is given up");
            self.is_given_up = true;
        }
        result
    }

    fn try_run(&self) -> io::Result<()> {
        self.queue()?;
        // A machine that does not come back cannot be stopped from here; it ends with the process.
        self.done.recv_timeout(self.limit * SLOTS).map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Puts the slot behind those that the machine has been given; starts its thread if it has none yet.
    fn queue(&self) -> io::Result<()> {
        let mut state = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::New(..) = *state {
            *state = start(std::mem::replace(&mut *state, State::Failed), self.limit)?;
        }
        match &*state {
            State::Running(turns) => turns.send(self.number).map_err(io::Error::other),
            _ => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        }
    }
}

/// Starts the thread of a machine that has none yet.
fn start(state: State, limit: Duration) -> io::Result<State> {
    let State::New(mut vm, answers) = state else { return Ok(state) };
    let (turns, queued) = sync_channel(answers.len());
    thread::Builder::new().spawn(move || {
        let mut watchdog = Watchdog::without_timer(limit);
        for slot in queued {
            let result = turn(&mut vm, slot, &mut watchdog);
            let is_over = result.is_err();
            let answer = usize::try_from(slot).ok().and_then(|slot| answers.get(slot));
            if answer.is_none_or(|answer| answer.send(result).is_err()) || is_over {
                break;
            }
        }
    })?;
    Ok(State::Running(turns))
}

/// Lets a machine do what is in a slot.
fn turn(vm: &mut Vm, slot: u32, watchdog: &mut Watchdog) -> Answer {
    let place = vm.ram().dma().write_obj(slot, GuestAddress(TURN_START));
    place.map_err(|_| VmError::Protocol("a machine that packs and unpacks has no memory".to_owned()))?;
    vm.run(Run { bus: &mut Mailbox, watchdog, after_request: &mut |_| () })
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
