//! The registers, driven as the virtio standard says and otherwise.

use instar_abi::memory::HEAP_START;
use instar_abi::mmio::{Attach, DEVICE_ID_BLOCK, MAGIC, QUEUE_SIZE_MAX, VENDOR, VERSION, feature, register, status};

use super::super::chain::Malformed;
use super::super::transport::{Effect, Transport};
use super::{ram, write_wire};
use crate::vm::GuestRam;

struct Driver {
    ram: GuestRam,
    device: Transport,
}

impl Driver {
    fn new(read_only: bool) -> Self {
        Self { ram: ram(), device: Transport::new(read_only).expect("a device") }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.read(offset, 0x1_0000_0201, &mut data).expect("readable");
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) -> Result<Effect, Malformed> {
        self.device.write(offset, &value.to_le_bytes(), self.ram.dma())
    }

    fn features(&mut self) -> u64 {
        self.write(register::DEVICE_FEATURES_SEL, 0).expect("written");
        let low = self.read(register::DEVICE_FEATURES);
        self.write(register::DEVICE_FEATURES_SEL, 1).expect("written");
        u64::from(self.read(register::DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    /// The standard's handshake, up to the queue.
    fn agree(&mut self, features: u64) -> Result<(), Malformed> {
        self.write(register::STATUS, 0)?;
        self.write(register::STATUS, status::ACKNOWLEDGE)?;
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER)?;
        for (word, value) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(register::DRIVER_FEATURES_SEL, word)?;
            self.write(register::DRIVER_FEATURES, u32::try_from(value).expect("a word"))?;
        }
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK)?;
        Ok(())
    }

    fn start(&mut self) -> Result<(), Malformed> {
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.write(register::STATUS, all).map(drop)
    }

    fn place_queue(&mut self) -> Result<(), Malformed> {
        let heap = u32::try_from(HEAP_START).expect("low");
        self.write(register::QUEUE_SEL, 0)?;
        self.write(register::QUEUE_NUM, 16)?;
        for (low, high, at) in [
            (register::QUEUE_DESC_LOW, register::QUEUE_DESC_HIGH, heap),
            (register::QUEUE_DRIVER_LOW, register::QUEUE_DRIVER_HIGH, heap + 0x1000),
            (register::QUEUE_DEVICE_LOW, register::QUEUE_DEVICE_HIGH, heap + 0x2000),
        ] {
            self.write(low, at)?;
            self.write(high, 0)?;
        }
        self.write(register::QUEUE_READY, 1).map(drop)
    }
}

#[test]
fn identity_and_configuration_are_readable() {
    let mut driver = Driver::new(true);
    assert_eq!(driver.read(register::MAGIC_VALUE), MAGIC);
    assert_eq!(driver.read(register::VERSION), VERSION);
    assert_eq!(driver.read(register::DEVICE_ID), DEVICE_ID_BLOCK);
    assert_eq!(driver.read(register::VENDOR_ID), VENDOR);
    assert_eq!(driver.read(register::QUEUE_NUM_MAX), u32::from(QUEUE_SIZE_MAX));
    // 4 GiB and 513 bytes are two sectors more than 4 GiB.
    assert_eq!((driver.read(register::CONFIG_CAPACITY), driver.read(register::CONFIG_CAPACITY + 4)), (0x80_0002, 0));
    let length = (driver.read(register::CONFIG_LENGTH_BYTES), driver.read(register::CONFIG_LENGTH_BYTES + 4));
    assert_eq!(length, (0x201, 1));
    assert_ne!(driver.features() & 1 << feature::READ_ONLY, 0);
    driver.write(register::QUEUE_SEL, 1).expect("written");
    assert_eq!(driver.read(register::QUEUE_NUM_MAX), 0);
    assert_eq!(Driver::new(false).features() & 1 << feature::READ_ONLY, 0);
}

#[test]
fn standard_handshake_makes_the_queue_usable() {
    let mut driver = Driver::new(false);
    let features = driver.features();
    driver.agree(features).expect("agreed");
    assert!(driver.device.queue().is_err());
    driver.place_queue().expect("placed");
    driver.start().expect("started");
    assert!(driver.device.queue().is_ok());
    assert_eq!(driver.write(register::QUEUE_NOTIFY, 0), Ok(Effect::Notify));
    assert_eq!(driver.write(register::QUEUE_NOTIFY, 1), Ok(Effect::None), "there is no queue 1");
}

#[test]
fn attaching_does_the_same_at_once() {
    let mut driver = Driver::new(false);
    let attach = Attach {
        features: 1 << feature::VERSION_1,
        descriptor_table: HEAP_START,
        available_ring: HEAP_START + 0x1000,
        used_ring: HEAP_START + 0x2000,
        queue_size: 16,
        reserved: 0,
    };
    write_wire(driver.ram.dma(), HEAP_START + 0x3000, &attach);
    let address = (HEAP_START + 0x3000).to_le_bytes();
    driver.device.write(register::ATTACH, &address, driver.ram.dma()).expect("attached");
    assert!(driver.device.queue().is_ok());
    driver.write(register::STATUS, 0).expect("reset");
    assert!(driver.device.queue().is_err());
}

#[test]
fn a_queue_in_use_does_not_move() {
    let mut driver = Driver::new(false);
    driver.agree(1 << feature::VERSION_1).expect("agreed");
    driver.place_queue().expect("placed");
    driver.start().expect("started");
    assert!(driver.write(register::QUEUE_DESC_LOW, 0x1000).is_err());
    assert!(driver.write(register::QUEUE_NUM, 8).is_err());
    assert!(driver.write(register::DRIVER_FEATURES, 0).is_err());
}

#[test]
fn dishonest_handshakes_are_refused() {
    assert!(Driver::new(true).agree(u64::MAX).is_err(), "features that were not offered");
    assert!(Driver::new(true).agree(0).is_err(), "a driver of the old standard");
    let mut driver = Driver::new(true);
    driver.agree(1 << feature::VERSION_1).expect("agreed");
    assert!(driver.start().is_err(), "without a queue");
    assert!(driver.write(register::STATUS, status::ACKNOWLEDGE).is_err(), "backwards");
    assert!(driver.write(register::STATUS, 0x40).is_err(), "a bit that is the device's");
    for width in [1, 2, 8] {
        assert!(driver.device.write(register::STATUS, &vec![0; width], driver.ram.dma()).is_err());
        assert!(driver.device.read(register::STATUS, 0, &mut vec![0; width]).is_err());
    }
}

proptest::proptest! {
    /// No sequence of register accesses panics.
    #[test]
    fn no_register_access_panics(
        accesses in proptest::collection::vec(
            (0u64..0x240, proptest::collection::vec(proptest::num::u8::ANY, 0..9), proptest::bool::ANY), 0..60)
    ) {
        let mut driver = Driver::new(false);
        for (offset, mut data, write) in accesses {
            // Errors end a run; going on after them only makes this test harder.
            let _ = if write {
                driver.device.write(offset & !3, &data, driver.ram.dma()).map(drop)
            } else {
                driver.device.read(offset & !3, u64::MAX, &mut data)
            };
        }
    }
}
