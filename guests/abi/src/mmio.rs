//! Device pages: addresses that are mapped in the guest but have no memory behind them, so that each access goes to the
//! host. One control page, then one virtio-mmio page a device (virtio 1.2, section 4.2.2).

use crate::job::MAX_DEVICES;
use crate::memory::PAGE_BYTES;

/// The control page.
pub const CONTROL_START: u64 = 0xD000_0000;
/// The first device's page.
pub const DEVICE_START: u64 = 0xD001_0000;
/// First address behind the last device's page.
pub const DEVICE_END: u64 = DEVICE_START + MAX_DEVICES as u64 * PAGE_BYTES;

/// Registers of the control page: written by the guest, 4 bytes wide.
pub mod control {
    /// Any value: the report is complete and the guest has nothing left to do.
    pub const DONE: u64 = 0x00;
    /// Length in bytes of the message in the shared place: the guest cannot go on.
    pub const PANIC: u64 = 0x08;
    /// Any value: the batch of [`crate::unpack`] is unpacked; the guest goes on when there is another one.
    pub const BATCH_DONE: u64 = 0x18;
}

/// Registers of a device page; 4 bytes wide unless said otherwise.
pub mod register {
    /// [`super::MAGIC`].
    pub const MAGIC_VALUE: u64 = 0x000;
    /// [`super::VERSION`].
    pub const VERSION: u64 = 0x004;
    /// [`super::DEVICE_ID_BLOCK`].
    pub const DEVICE_ID: u64 = 0x008;
    /// [`super::VENDOR`].
    pub const VENDOR_ID: u64 = 0x00c;
    /// The 32 device feature bits selected by the next register.
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// Selects a word of device features.
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    /// The 32 driver feature bits selected by the next register.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// Selects a word of driver features.
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    /// Selects a queue; there is only queue 0.
    pub const QUEUE_SEL: u64 = 0x030;
    /// The largest queue size.
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    /// The queue size that the driver uses.
    pub const QUEUE_NUM: u64 = 0x038;
    /// Whether the queue is in use.
    pub const QUEUE_READY: u64 = 0x044;
    /// The doorbell: every request in the queue is complete when the write returns.
    pub const QUEUE_NOTIFY: u64 = 0x050;
    /// Interrupt causes; there are no interrupts, so always zero.
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// Acknowledges interrupts; ignored.
    pub const INTERRUPT_ACK: u64 = 0x064;
    /// Device status.
    pub const STATUS: u64 = 0x070;
    /// Address of the descriptor table, low half.
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    /// Address of the descriptor table, high half.
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    /// Address of the available ring, low half.
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    /// Address of the available ring, high half.
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    /// Address of the used ring, low half.
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    /// Address of the used ring, high half.
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    /// Changes whenever the configuration changes.
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    /// virtio-blk configuration: capacity in sectors of 512 bytes, rounded up; 8 bytes, readable in halves.
    pub const CONFIG_CAPACITY: u64 = 0x100;
    /// Length of the device in bytes; 8 bytes, readable in halves. Vendor.
    pub const CONFIG_LENGTH_BYTES: u64 = 0x200;
    /// Address of an [`super::Attach`]: performs the whole handshake with one write of 8 bytes, and rings the doorbell. Vendor.
    pub const ATTACH: u64 = 0x210;
}

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// Version of the register layout: the modern one.
pub const VERSION: u32 = 2;
/// A block device.
pub const DEVICE_ID_BLOCK: u32 = 2;
/// "INST".
pub const VENDOR: u32 = u32::from_le_bytes(*b"INST");
/// The largest queue size in descriptors.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// Device status bits.
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// The features are agreed.
    pub const FEATURES_OK: u32 = 8;
    /// The device has met an error that it cannot recover from.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver has given up.
    pub const FAILED: u32 = 128;
}

/// Feature bits, as numbers of bits.
pub mod feature {
    /// The device is read-only (VIRTIO_BLK_F_RO).
    pub const READ_ONLY: u32 = 5;
    /// The device can flush (VIRTIO_BLK_F_FLUSH).
    pub const FLUSH: u32 = 9;
    /// The device can discard (VIRTIO_BLK_F_DISCARD).
    pub const DISCARD: u32 = 13;
    /// The device can write zeros (VIRTIO_BLK_F_WRITE_ZEROES).
    pub const WRITE_ZEROES: u32 = 14;
    /// The device follows virtio 1.0 or later (VIRTIO_F_VERSION_1).
    pub const VERSION_1: u32 = 32;
    /// The device takes this contract's vendor requests; a bit from the range for device types' own use.
    pub const VENDOR_REQUESTS: u32 = 23;
}

wire_struct! {
    /// All that a device has to know of its driver, in guest memory.
    pub struct Attach {
        /// The features that the driver accepts; must be among those that the device offers.
        pub features: u64,
        /// Address of the descriptor table, a multiple of 16.
        pub descriptor_table: u64,
        /// Address of the available ring, a multiple of 2.
        pub available_ring: u64,
        /// Address of the used ring, a multiple of 4.
        pub used_ring: u64,
        /// Number of descriptors: a power of two, at most [`QUEUE_SIZE_MAX`].
        pub queue_size: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

/// The address of a device's page.
#[must_use]
pub const fn device_page(device: u32) -> u64 {
    DEVICE_START + device as u64 * PAGE_BYTES
}
