//! One split virtqueue (virtio 1.2, section 2.7) in which every request has a fixed place: three descriptors, a header and
//! an answer. All places are free again after each doorbell, for the device answers before the doorbell returns.

use instar_abi::block::{Completion, VendorHeader, status};
use instar_abi::mmio::{Attach, feature};
use instar_abi::wire::Wire;

use super::Transport;
use super::memory::SharedMemory;

const DESCRIPTOR_BYTES: usize = 16;
const DESCRIPTORS_A_REQUEST: usize = 3;
const HEADER_BYTES: usize = VendorHeader::SIZE_BYTES;
const ANSWER_BYTES: usize = Completion::SIZE_BYTES;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;

wire_struct! {
    /// One descriptor.
    pub struct Descriptor {
        /// Where the piece of memory lies.
        pub address: u64,
        /// How long it is in bytes.
        pub length_bytes: u32,
        /// Whether another one follows, and whether the device writes.
        pub flags: u16,
        /// Which one follows.
        pub next: u16,
    }
}

/// A piece of memory between a request's header and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) address: u64,
    pub(super) length_bytes: u32,
    pub(super) device_writes: bool,
}

/// A queue and its places.
#[derive(Debug)]
pub(super) struct Ring {
    memory: SharedMemory,
    size: usize,
    used: usize,
    available_index: u16,
    /// Offsets in `memory`.
    available: usize,
    used_ring: usize,
    headers: usize,
    answers: usize,
    attach: usize,
    /// Whether the device knows the queue.
    is_attached: bool,
}

impl Ring {
    /// A queue of `size` descriptors, a power of two.
    pub(super) fn new(size: u16) -> Self {
        let size = usize::from(size);
        let available = size * DESCRIPTOR_BYTES;
        let used_ring = (available + 6 + 2 * size).next_multiple_of(16);
        let headers = (used_ring + 6 + 8 * size).next_multiple_of(16);
        let places = size / DESCRIPTORS_A_REQUEST;
        let answers = headers + places * HEADER_BYTES;
        let attach = answers + places * ANSWER_BYTES;
        let memory = SharedMemory::zeroed(attach + Attach::SIZE_BYTES);
        Self {
            memory,
            size,
            used: 0,
            available_index: 0,
            available,
            used_ring,
            headers,
            answers,
            attach,
            is_attached: false,
        }
    }

    /// Has the device carry out what is in the queue; the first time this makes the queue known to it.
    fn notify(&mut self, transport: &mut dyn Transport, device: u32) {
        if self.is_attached {
            return transport.notify(device);
        }
        self.is_attached = true;
        let features = 1 << feature::VERSION_1 | 1 << feature::FLUSH | 1 << feature::VENDOR_REQUESTS;
        let attach = Attach {
            features,
            descriptor_table: self.memory.address(0),
            available_ring: self.memory.address(self.available),
            used_ring: self.memory.address(self.used_ring),
            queue_size: u32::try_from(self.size).unwrap_or(u32::MAX),
            reserved: 0,
        };
        self.memory.put(self.attach, &attach);
        transport.attach_and_notify(device, self.memory.address(self.attach));
    }

    /// How many requests wait for the doorbell.
    pub(super) fn pending(&self) -> usize {
        self.used
    }

    /// Whether there is room for another request.
    pub(super) fn has_room(&self) -> bool {
        self.used < self.size / DESCRIPTORS_A_REQUEST
    }

    /// Puts a request into the queue.
    ///
    /// # Panics
    /// If there is no room.
    pub(super) fn push(&mut self, header: &VendorHeader, data: Option<Data>) {
        assert!(self.has_room(), "no room in the queue");
        let place = self.used;
        let first = place * DESCRIPTORS_A_REQUEST;
        let header_at = self.headers + place * HEADER_BYTES;
        let answer_at = self.answers + place * ANSWER_BYTES;
        self.memory.put(header_at, header);
        let pending = Completion { status: u32::from(status::PENDING), errno: 0, record: 0, reserved: 0 };
        self.memory.put(answer_at, &pending);
        let second = if data.is_some() { first + 1 } else { first + 2 };
        self.descriptor(first, self.memory.address(header_at), HEADER_BYTES, FLAG_NEXT, second);
        if let Some(data) = data {
            let flags = if data.device_writes { FLAG_NEXT | FLAG_WRITE } else { FLAG_NEXT };
            self.descriptor(second, data.address, data.length_bytes as usize, flags, first + 2);
        }
        self.descriptor(first + 2, self.memory.address(answer_at), ANSWER_BYTES, FLAG_WRITE, 0);
        let slot = usize::from(self.available_index) % self.size;
        self.memory.put(self.available + 4 + 2 * slot, &small(first));
        self.available_index = self.available_index.wrapping_add(1);
        self.used += 1;
    }

    /// Puts a request with a list and room for its answers into the queue, which must be empty.
    ///
    /// # Panics
    /// If the queue is not empty.
    pub(super) fn push_with_room(&mut self, header: &VendorHeader, list: Data, room: Data) {
        assert!(self.used == 0, "the queue is not empty");
        self.push(header, Some(list));
        // A fourth descriptor goes between the list and the answer: the first one of the next request's place.
        let (second, third, fourth) = (1, 2, DESCRIPTORS_A_REQUEST);
        self.descriptor(second, list.address, list.length_bytes as usize, FLAG_NEXT, fourth);
        self.descriptor(fourth, room.address, room.length_bytes as usize, FLAG_NEXT | FLAG_WRITE, third);
    }

    /// Rings the doorbell and hands the answers to `each` in the order of the requests.
    ///
    /// # Panics
    /// If the device has not answered everything: the host breaks the contract.
    pub(super) fn ring(
        &mut self,
        transport: &mut dyn Transport,
        device: u32,
        mut each: impl FnMut(usize, &Completion),
    ) {
        let count = core::mem::take(&mut self.used);
        self.memory.put(self.available + 2, &self.available_index);
        self.notify(transport, device);
        let answered: u16 = self.memory.get(self.used_ring + 2);
        assert!(answered == self.available_index, "the device left requests unanswered");
        for place in 0..count {
            each(place, &self.memory.get(self.answers + place * ANSWER_BYTES));
        }
    }

    fn descriptor(&self, index: usize, address: u64, length: usize, flags: u16, next: usize) {
        let length_bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let descriptor = Descriptor { address, length_bytes, flags, next: small(next) };
        self.memory.put(index * DESCRIPTOR_BYTES, &descriptor);
    }
}

/// Numbers of descriptors are below the queue size, which is a `u16`.
fn small(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
