//! Attacks on the devices' registers and rings, beneath the honest driver.

use alloc::vec;

use instar_abi::block::{StandardHeader, VendorHeader, kind};
use instar_abi::memory::{HEAP_START, PROGRAM_START, REPORT_START, TABLES_START};
use instar_abi::mmio::{Attach, feature};
use instar_abi::wire::Wire;
use instar_runtime::Transport;
use instar_runtime::bare::Machine;

const SIZE: usize = 16;
const AVAILABLE: usize = 0x100;
const USED: usize = 0x200;
const HEADER: usize = 0x400;
const ANSWER: usize = 0x500;
const ATTACH: usize = 0x600;
const DATA: usize = 0x800;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A queue without any rules.
struct Raw {
    bytes: &'static mut [u8],
}

impl Raw {
    fn new() -> Self {
        Self { bytes: vec![0; 0x1000].leak() }
    }

    fn address(&self, offset: usize) -> u64 {
        self.bytes.as_ptr().expose_provenance() as u64 + offset as u64
    }

    fn put<T: Wire>(&mut self, offset: usize, value: &T) {
        value.put(&mut self.bytes[offset..]);
    }

    fn descriptor(&mut self, index: usize, address: u64, length: u32, flags: u16, next: u16) {
        self.put(16 * index, &address);
        self.put(16 * index + 8, &length);
        self.put(16 * index + 12, &flags);
        self.put(16 * index + 14, &next);
    }

    fn attach(&mut self, change: impl FnOnce(&mut Attach)) {
        let mut attach = Attach {
            features: 1 << feature::VERSION_1 | 1 << feature::VENDOR_REQUESTS,
            descriptor_table: self.address(0),
            available_ring: self.address(AVAILABLE),
            used_ring: self.address(USED),
            queue_size: SIZE as u32,
            reserved: 0,
        };
        change(&mut attach);
        self.put(ATTACH, &attach);
        Machine.attach_and_notify(0, self.address(ATTACH));
    }

    fn header(&mut self, kind: u32, offset_bytes: u64, length_bytes: u64, record_count: u32) {
        let header = VendorHeader { kind, flags: 0, offset_bytes, length_bytes, record_count, reserved: 0 };
        self.put(HEADER, &header);
    }

    /// A read of 512 bytes to an address, with an answer.
    fn read_request(&mut self, target: u64, length: u32) {
        self.header(kind::READ_BYTES, 0, u64::from(length), 0);
        self.descriptor(0, self.address(HEADER), 32, NEXT, 1);
        self.descriptor(1, target, length, NEXT | WRITE, 2);
        self.descriptor(2, self.address(ANSWER), 16, WRITE, 0);
    }

    fn notify(&mut self, heads: &[u16], index: u16) {
        for (at, head) in heads.iter().enumerate() {
            self.put(AVAILABLE + 4 + 2 * at, head);
        }
        self.put(AVAILABLE + 2, &index);
        Machine.notify(0);
    }
}

/// Carries out the attack; it is over if this returns.
pub(crate) fn attack(number: u32) {
    let mut raw = Raw::new();
    let (here, data) = (raw.address(0), raw.address(DATA));
    match number {
        0 => return Machine.notify(0),
        1 => return Machine.attach_and_notify(0, TABLES_START),
        2 => return Machine.attach_and_notify(0, u64::MAX),
        3 => return raw.attach(|attach| attach.descriptor_table = TABLES_START),
        4 => return raw.attach(|attach| attach.used_ring = PROGRAM_START),
        5 => return raw.attach(|attach| attach.available_ring = u64::MAX - 1),
        6 => return raw.attach(|attach| attach.queue_size = 3),
        7 => return raw.attach(|attach| attach.queue_size = 1 << 20),
        8 => return raw.attach(|attach| attach.features = u64::MAX),
        9 => return raw.attach(|attach| attach.descriptor_table += 1),
        10 => return raw.attach(|attach| attach.used_ring = (64 << 20) - 16),
        _ => raw.attach(|_| {}),
    }
    raw.read_request(data, 512);
    match number {
        // Chains.
        20 => raw.descriptor(1, data, 512, NEXT | WRITE, 1),
        21 => raw.descriptor(1, data, 512, NEXT | WRITE, 16),
        22 => raw.descriptor(0, here, 64, INDIRECT, 0),
        23 => raw.descriptor(1, data, 512, WRITE, 0),
        24 => raw.descriptor(0, data, 32, NEXT | WRITE, 1),
        25 => raw.descriptor(2, raw.address(ANSWER), 15, WRITE, 0),
        26 => raw.descriptor(0, raw.address(HEADER), 31, NEXT, 1),
        27 => raw.descriptor(0, raw.address(HEADER), 33, NEXT, 1),
        // Addresses and lengths: the device must not reach what the program cannot.
        30 => raw.read_request(TABLES_START, 512),
        31 => raw.read_request(PROGRAM_START, 512),
        32 => raw.read_request(REPORT_START, 512),
        33 => raw.read_request(HEAP_START - 256, 512),
        34 => raw.read_request((64 << 20) - 256, 512),
        35 => raw.read_request(u64::MAX - 100, 512),
        36 => raw.read_request(data, u32::MAX),
        37 => raw.read_request(HEAP_START, 32 << 20),
        38 => raw.read_request(data, 0),
        39 => raw.descriptor(2, PROGRAM_START, 16, WRITE, 0),
        40 => raw.header(kind::READ_BYTES, 0, u64::MAX, 0),
        41 => raw.header(kind::READ_BYTES, 0, 512, u32::MAX),
        42 => raw.header(kind::COPY, 0, 0, 4097),
        43 => raw.header(kind::COPY, 0, 0, 1),
        44 => raw.header(kind::READ_BYTES, 0, 512, 1),
        // Rings.
        50 => return raw.notify(&[0], 17),
        51 => return raw.notify(&[16], 1),
        52 => return raw.notify(&[u16::MAX], 1),
        // Standard requests.
        60 => {
            raw.put(HEADER, &StandardHeader { kind: kind::IN, reserved: 0, sector: u64::MAX });
            raw.descriptor(0, raw.address(HEADER), 16, NEXT, 1);
            raw.descriptor(2, raw.address(ANSWER), 1, WRITE, 0);
        }
        61 => {
            raw.put(HEADER, &StandardHeader { kind: kind::WRITE_ZEROES, reserved: 0, sector: 0 });
            raw.descriptor(0, raw.address(HEADER), 16 + 7, NEXT, 2);
            raw.descriptor(2, raw.address(ANSWER), 1, WRITE, 0);
        }
        _ => panic!("no such attack"),
    }
    raw.notify(&[0], 1);
}
