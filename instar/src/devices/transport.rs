//! The virtio-mmio registers of one device (virtio 1.2, section 4.2.2) with its one queue. Knows nothing of requests.

use instar_abi::mmio::{
    self, Attach, DEVICE_ID_BLOCK, MAGIC, QUEUE_SIZE_MAX, VENDOR, VERSION, feature, register, status,
};
use instar_abi::wire::Wire;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::Malformed;
use crate::vm::DmaMemory;

/// All status bits that a driver may set.
const DRIVER_STATUS: u32 =
    status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK | status::FAILED;

/// What a write to a register asks the device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing more.
    None,
    /// The doorbell rang.
    Notify,
}

/// Registers and queue of one device.
#[derive(Debug)]
pub(super) struct Transport {
    queue: Queue,
    offered: u64,
    accepted: u64,
    status: u32,
    device_features_word: u32,
    driver_features_word: u32,
    queue_selected: u32,
}

impl Transport {
    /// A device that no driver has found yet.
    pub(super) fn new(read_only: bool) -> Result<Self, Malformed> {
        let mut offered = 1 << feature::VERSION_1 | 1 << feature::FLUSH | 1 << feature::VENDOR_REQUESTS;
        offered |= if read_only { 1 << feature::READ_ONLY } else { 1 << feature::DISCARD | 1 << feature::WRITE_ZEROES };
        Ok(Self {
            queue: Queue::new(QUEUE_SIZE_MAX).map_err(|_| Malformed("the queue size is impossible"))?,
            offered,
            accepted: 0,
            status: 0,
            device_features_word: 0,
            driver_features_word: 0,
            queue_selected: 0,
        })
    }

    /// The queue, if the driver has said that it is ready.
    pub(super) fn queue(&mut self) -> Result<&mut Queue, Malformed> {
        if self.status & status::DRIVER_OK != 0 && self.queue.ready() {
            Ok(&mut self.queue)
        } else {
            Err(Malformed("a doorbell rang before its device was ready"))
        }
    }

    /// Answers a read of a register.
    pub(super) fn read(&self, offset: u64, length_bytes: u64, data: &mut [u8]) -> Result<(), Malformed> {
        let queue_exists = self.queue_selected == 0;
        let word = |value: u64, at: u64| u32::try_from(value >> (8 * at) & 0xffff_ffff).unwrap_or(0);
        let capacity = length_bytes.div_ceil(instar_abi::block::SECTOR_BYTES);
        let value = match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => DEVICE_ID_BLOCK,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES if self.device_features_word < 2 => {
                word(self.offered, u64::from(self.device_features_word) * 4)
            }
            register::QUEUE_NUM_MAX if queue_exists => u32::from(QUEUE_SIZE_MAX),
            register::QUEUE_READY if queue_exists => u32::from(self.queue.ready()),
            register::STATUS => self.status,
            register::CONFIG_CAPACITY => word(capacity, 0),
            at if at == register::CONFIG_CAPACITY + 4 => word(capacity, 4),
            register::CONFIG_LENGTH_BYTES => word(length_bytes, 0),
            at if at == register::CONFIG_LENGTH_BYTES + 4 => word(length_bytes, 4),
            // Everything else that exists or could exist reads as zero.
            _ => 0,
        };
        let data: &mut [u8; 4] =
            data.try_into().map_err(|_| Malformed("a device register was read with a width other than 4 bytes"))?;
        *data = value.to_le_bytes();
        Ok(())
    }

    /// Takes a write to a register.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], memory: &DmaMemory) -> Result<Effect, Malformed> {
        if offset == register::ATTACH {
            let address = data.try_into().map_err(|_| Malformed("a device register was written with a wrong width"))?;
            return self.attach(u64::from_le_bytes(address), memory).map(|()| Effect::Notify);
        }
        let data: [u8; 4] =
            data.try_into().map_err(|_| Malformed("a device register was written with a wrong width"))?;
        let value = u32::from_le_bytes(data);
        match offset {
            register::QUEUE_NOTIFY if value == 0 => return Ok(Effect::Notify),
            register::DEVICE_FEATURES_SEL => self.device_features_word = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_word = value,
            register::DRIVER_FEATURES => self.accept_word(value)?,
            register::QUEUE_SEL => self.queue_selected = value,
            register::STATUS => self.set_status(value, memory)?,
            _ => self.write_queue(offset, value)?,
        }
        Ok(Effect::None)
    }

    fn accept_word(&mut self, value: u32) -> Result<(), Malformed> {
        if self.status & status::FEATURES_OK != 0 {
            return Err(Malformed("features changed after they were agreed"));
        }
        match self.driver_features_word {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
        Ok(())
    }

    fn write_queue(&mut self, offset: u64, value: u32) -> Result<(), Malformed> {
        if self.queue.ready() && offset != register::QUEUE_READY {
            // Registers that have no meaning, and the queue's registers while the queue is in use.
            return match offset {
                register::QUEUE_NUM | register::QUEUE_DESC_LOW..=register::QUEUE_DEVICE_HIGH => {
                    Err(Malformed("a queue changed while it was in use"))
                }
                _ => Ok(()),
            };
        }
        if self.queue_selected != 0 {
            return Ok(());
        }
        let queue = &mut self.queue;
        match offset {
            register::QUEUE_NUM => {
                let size = u16::try_from(value).map_err(|_| Malformed("the queue size is impossible"))?;
                queue.try_set_size(size).map_err(|_| Malformed("the queue size is impossible"))?;
            }
            register::QUEUE_READY => queue.set_ready(value == 1),
            register::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
        Ok(())
    }

    fn set_status(&mut self, value: u32, memory: &DmaMemory) -> Result<(), Malformed> {
        if value == 0 {
            let offered = self.offered;
            self.queue.reset();
            (self.accepted, self.status) = (0, 0);
            (self.device_features_word, self.driver_features_word, self.queue_selected) = (0, 0, 0);
            self.offered = offered;
            return Ok(());
        }
        if value & !DRIVER_STATUS != 0 || self.status & !value != 0 {
            return Err(Malformed("a device's status went backwards"));
        }
        if value & status::FEATURES_OK != 0 {
            self.check_features()?;
        }
        let usable = || value & status::FEATURES_OK != 0 && self.queue.is_valid(memory);
        if value & status::DRIVER_OK != 0 && !usable() {
            return Err(Malformed("a driver is ready without a usable queue"));
        }
        self.status = value;
        Ok(())
    }

    fn check_features(&self) -> Result<(), Malformed> {
        if self.accepted & !self.offered != 0 || self.accepted & 1 << feature::VERSION_1 == 0 {
            return Err(Malformed("a driver accepts features that were not offered"));
        }
        Ok(())
    }

    /// The whole handshake at once.
    fn attach(&mut self, address: u64, memory: &DmaMemory) -> Result<(), Malformed> {
        let mut bytes = [0; Attach::SIZE_BYTES];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .map_err(|_| Malformed("a device was attached to with memory that devices may not reach"))?;
        let attach = Attach::get(&bytes);
        self.set_status(0, memory)?;
        self.accepted = attach.features;
        let size = u16::try_from(attach.queue_size).map_err(|_| Malformed("the queue size is impossible"))?;
        self.queue.try_set_size(size).map_err(|_| Malformed("the queue size is impossible"))?;
        self.queue
            .try_set_desc_table_address(GuestAddress(attach.descriptor_table))
            .and_then(|()| self.queue.try_set_avail_ring_address(GuestAddress(attach.available_ring)))
            .and_then(|()| self.queue.try_set_used_ring_address(GuestAddress(attach.used_ring)))
            .map_err(|_| Malformed("a queue is not aligned"))?;
        self.queue.set_ready(true);
        self.set_status(mmio::status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK, memory)
    }
}
