//! Passes accesses to device pages on: to the control page's few registers, and to the devices, whose requests it carries
//! out when a doorbell rings.

use std::fmt;

use instar_abi::block::{Completion, status};
use instar_abi::job::{MAX_DEVICES, device_flag};
use instar_abi::memory::{
    DEVICES_START, DeviceState, PAGE_BYTES, PANIC_TEXT_BYTES, SHARED_PANIC_TEXT, SHARED_START, SHARED_TOTAL_BYTES,
};
use instar_abi::mmio::{CONTROL_START, DEVICE_END, DEVICE_START, control};
use instar_abi::wire::Wire;
use tracing::{debug, warn};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::backend::Backend;
use super::chain::Malformed;
use super::codec_machines::CodecMachines;
use super::counters::Counters;
use super::executor::{Executor, Kept, Outcome};
use super::rehearsal::Effects;
use super::request::{self, Answer, Request};
use super::throttle::Throttle;
use super::transport::{Effect, Transport};
use crate::vm::{BusAction, DmaMemory, GuestRam, MmioBus, VmError};

/// The most list entries that are held in the host's memory at once; a longer batch is done in several goes.
const MAX_ENTRIES: usize = 32 << 10;

/// All devices of a sandbox.
#[derive(Debug)]
pub struct Bus<'f, 'w> {
    transports: Vec<Transport>,
    backends: Vec<Backend<'f>>,
    throttle: Option<Throttle>,
    codec_machines: Option<CodecMachines>,
    kept: Kept,
    watcher: Watcher<'w>,
    counters: Counters,
}

/// Whoever wants to know how many bytes of the upper layers have been copied, out of how many.
#[derive(Default)]
struct Watcher<'a>(Option<&'a mut dyn FnMut(u64, u64)>);

impl fmt::Debug for Watcher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watcher").field(&self.0.is_some()).finish()
    }
}

impl<'f, 'w> Bus<'f, 'w> {
    /// One device a backend, numbered in their order.
    ///
    /// # Errors
    /// [`VmError::Config`] where there are too many, or where one file stands behind two devices and one of them is writable.
    pub fn new(backends: Vec<Backend<'f>>) -> Result<Self, VmError> {
        if backends.len() > MAX_DEVICES {
            return Err(VmError::Config(format!("more than {MAX_DEVICES} files")));
        }
        for (number, backend) in backends.iter().enumerate() {
            if backends[..number]
                .iter()
                .any(|other| backend.same_file(other) && (backend.writable() || other.writable()))
            {
                return Err(VmError::Config("the same file is used twice, and would be written to".into()));
            }
        }
        let transports = backends.iter().map(|backend| Transport::new(!backend.writable())).collect::<Result<_, _>>();
        Ok(Self {
            transports: transports.map_err(protocol)?,
            backends,
            throttle: None,
            codec_machines: None,
            kept: Kept::default(),
            watcher: Watcher::default(),
            counters: Counters::default(),
        })
    }

    /// Gives the files back, and what was asked of them.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Backend<'f>>, Counters) {
        (self.backends, self.counters)
    }

    /// Limits what is written to all devices together; 0 for no limit.
    #[must_use]
    pub fn limited_to(mut self, bytes_per_second: u64) -> Self {
        self.throttle = Throttle::new(bytes_per_second);
        self
    }

    /// Lets machines pack and unpack what the guest would have to alone.
    #[must_use]
    pub fn with_codec_machines(mut self, codec_machines: Option<CodecMachines>) -> Self {
        self.codec_machines = codec_machines;
        self
    }

    /// Has `watcher` told, again and again while a doorbell is being answered, how many bytes have been copied from a device
    /// to one with a higher number since the beginning; and how much the guest has to do in total.
    #[must_use]
    pub fn watched_by(mut self, watcher: &'w mut dyn FnMut(u64, u64)) -> Self {
        self.watcher = Watcher(Some(watcher));
        self
    }

    /// What has been rehearsed so far, for each device.
    #[must_use]
    pub fn effects(&self) -> Vec<Effects> {
        self.backends.iter().map(Backend::effects).collect()
    }

    /// Writes the device table to the guest's memory.
    ///
    /// # Errors
    /// [`VmError::Setup`].
    pub fn publish(&self, ram: &GuestRam) -> Result<(), VmError> {
        (0..self.backends.len()).try_for_each(|device| self.publish_device(ram, device))
    }

    fn publish_device(&self, ram: &GuestRam, device: usize) -> Result<(), VmError> {
        let Some(backend) = self.backends.get(device) else { return Ok(()) };
        let mut flags = if backend.writable() { device_flag::WRITABLE } else { 0 };
        // Where writing is limited or only rehearsed the guest does it, bit by bit.
        if backend.writable()
            && self.codec_machines.is_some()
            && self.throttle.is_none()
            && backend.rehearsal().is_none()
        {
            flags |= device_flag::CODECS;
        }
        let mut bytes = [0; DeviceState::SIZE_BYTES];
        DeviceState { length_bytes: backend.length_bytes(), flags, reserved: 0 }.put(&mut bytes);
        ram.write_low(DEVICES_START + (device * DeviceState::SIZE_BYTES) as u64, &bytes)
    }

    /// Carries out everything that stands in a device's queue.
    fn serve(&mut self, device: usize, ram: &GuestRam) -> Result<(), Malformed> {
        let memory = ram.dma();
        let total = ram.read_low_u64(SHARED_START + SHARED_TOTAL_BYTES).unwrap_or(0);
        let queue = self.transports[device].queue()?;
        let (table, size) = (GuestAddress(queue.desc_table()), queue.size());
        let broken = Malformed("a queue's ring is broken");
        let heads: Vec<u16> = queue.iter(memory).map_err(|_| broken)?.map(|chain| chain.head_index()).collect();
        let (throttle, kept) = (self.throttle.as_ref(), &self.kept);
        let codec_machines = self.codec_machines.as_ref().filter(|_| throttle.is_none());
        let executor = Executor { backends: &self.backends, own: device, memory, throttle, codec_machines, kept };
        let mut nobody = |_| ();
        let mut heads = heads.into_iter().peekable();
        while heads.peek().is_some() {
            let mut requests = Vec::new();
            let mut entries = 0;
            while let Some(head) = heads.next_if(|_| entries < MAX_ENTRIES) {
                let request = request::parse(memory, table, size, head)?;
                entries += request.action.entries();
                requests.push(request);
            }
            let outcomes = match &mut self.watcher.0 {
                Some(watcher) => executor.execute(&requests, &mut |copied| watcher(copied, total)),
                None => executor.execute(&requests, &mut nobody),
            };
            debug!(device, requests = requests.len(), "batch");
            for (request, outcome) in requests.iter().zip(outcomes) {
                self.counters.note(request, outcome);
                if outcome.status != status::OK {
                    warn!(device, errno = outcome.errno, "request failed");
                }
                answer(memory, request, outcome)?;
                queue.add_used(memory, request.head, request.writable_bytes).map_err(|_| broken)?;
            }
        }
        Ok(())
    }
}

fn answer(memory: &DmaMemory, request: &Request, outcome: Outcome) -> Result<(), Malformed> {
    let result = match request.answer {
        Answer::Byte(place) => memory.write_slice(&[outcome.status], place),
        Answer::Completion(place) => {
            let mut bytes = [0; Completion::SIZE_BYTES];
            let Outcome { status, errno, record } = outcome;
            Completion { status: u32::from(status), errno, record, reserved: 0 }.put(&mut bytes);
            memory.write_slice(&bytes, place)
        }
    };
    result.map_err(|_| Malformed("an answer's place is out of range"))
}

impl MmioBus for Bus<'_, '_> {
    fn read(&mut self, _ram: &GuestRam, address: u64, data: &mut [u8]) -> Result<(), VmError> {
        let (device, offset) = self.locate(address)?;
        self.transports[device].read(offset, self.backends[device].length_bytes(), data).map_err(protocol)
    }

    fn write(&mut self, ram: &GuestRam, address: u64, data: &[u8]) -> Result<BusAction, VmError> {
        if address == CONTROL_START + control::DONE {
            return Ok(BusAction::Done);
        }
        if address == CONTROL_START + control::PANIC {
            return Err(last_words(ram, data));
        }
        let (device, offset) = self.locate(address)?;
        if self.transports[device].write(offset, data, ram.dma()).map_err(protocol)? == Effect::Notify {
            self.serve(device, ram).map_err(protocol)?;
            self.publish_device(ram, device)?;
        }
        Ok(BusAction::Continue)
    }
}

impl Bus<'_, '_> {
    fn locate(&self, address: u64) -> Result<(usize, u64), VmError> {
        let inside = (DEVICE_START..DEVICE_END).contains(&address).then(|| address - DEVICE_START);
        let device = inside.and_then(|inside| usize::try_from(inside / PAGE_BYTES).ok());
        match device.filter(|device| *device < self.backends.len()) {
            Some(device) => Ok((device, address % PAGE_BYTES)),
            None => {
                Err(VmError::Protocol(format!("the guest program spoke to {address:#x}, where there is no device")))
            }
        }
    }
}

pub(super) fn last_words(ram: &GuestRam, data: &[u8]) -> VmError {
    let length = data.first_chunk::<4>().map_or(0, |word| u64::from(u32::from_le_bytes(*word))).min(PANIC_TEXT_BYTES);
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    match ram.read_low(SHARED_START + SHARED_PANIC_TEXT, &mut text) {
        Ok(()) => VmError::Panic(String::from_utf8_lossy(&text).into_owned()),
        Err(error) => error,
    }
}

fn protocol(malformed: Malformed) -> VmError {
    VmError::Protocol(format!("the guest program misused a device: {malformed}"))
}
