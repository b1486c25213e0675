//! Doorbells: from the ring to the files and back.

use instar_abi::block::{Completion, VendorHeader, kind, status};
use instar_abi::memory::{DEVICES_START, DeviceState, HEAP_START};
use instar_abi::mmio::{Attach, CONTROL_START, control, device_page, feature, register};
use instar_abi::wire::Wire;
use vm_memory::{Bytes, GuestAddress};

use super::super::bus::Bus;
use super::{ANSWER, DATA, HEADER, QUEUE_SIZE, backend, contents, file, piece, queue, ram, read_bytes, write_wire};
use crate::vm::{BusAction, GuestRam, MmioBus, VmError};

fn attach(bus: &mut Bus<'_, '_>, ram: &GuestRam, device: u32) {
    let queue = queue(ram.dma());
    let attach = Attach {
        features: 1 << feature::VERSION_1,
        descriptor_table: queue.desc_table_addr().0,
        available_ring: queue.avail_addr().0,
        used_ring: queue.used_addr().0.next_multiple_of(4),
        queue_size: u32::from(QUEUE_SIZE),
        reserved: 0,
    };
    write_wire(ram.dma(), HEAP_START + 0x8000, &attach);
    let address = (HEAP_START + 0x8000).to_le_bytes();
    bus.write(ram, device_page(device) + register::ATTACH, &address).expect("attached");
}

#[test]
fn a_doorbell_answers_everything_in_the_ring() {
    let ram = ram();
    let image = file(b"0123456789");
    let mut bus = Bus::new(vec![backend(&image, true)]).expect("a bus");
    bus.publish(&ram).expect("published");
    attach(&mut bus, &ram, 0);
    ram.dma().write_slice(b"written!", GuestAddress(DATA)).expect("in memory");
    let header = VendorHeader {
        kind: kind::WRITE_BYTES,
        flags: 0,
        offset_bytes: 6,
        length_bytes: 8,
        record_count: 0,
        reserved: 0,
    };
    write_wire(ram.dma(), HEADER, &header);
    let queue = queue(ram.dma());
    let chain = [piece(HEADER, VendorHeader::SIZE_BYTES, false), piece(DATA, 8, false), piece(ANSWER, 16, true)];
    queue.build_desc_chain(&chain).expect("a chain");
    queue.avail().ring().ref_at(0).expect("a place").store(0);
    queue.avail().idx().store(1);
    bus.write(&ram, device_page(0) + register::QUEUE_NOTIFY, &[0; 4]).expect("served");

    assert_eq!(contents(&image), b"012345written!");
    let completion = Completion::get(&read_bytes(ram.dma(), ANSWER, Completion::SIZE_BYTES));
    assert_eq!(completion, Completion { status: u32::from(status::OK), errno: 0, record: 0, reserved: 0 });
    assert_eq!(read_bytes(ram.dma(), queue.used_addr().0.next_multiple_of(4) + 2, 2), [1, 0]);
    let mut state = [0; DeviceState::SIZE_BYTES];
    ram.read_low(DEVICES_START, &mut state).expect("in memory");
    assert_eq!(DeviceState::get(&state), DeviceState { length_bytes: 14, flags: 1, reserved: 0 });
}

#[test]
fn the_control_page_ends_runs() {
    let ram = ram();
    let mut bus = Bus::new(Vec::new()).expect("a bus");
    assert_eq!(bus.write(&ram, CONTROL_START + control::DONE, &[1, 0, 0, 0]).expect("done"), BusAction::Done);
    let text = "no memory left\u{1b}[2J";
    ram.write_low(0x84_0400, text.as_bytes()).expect("in memory");
    let length = u32::try_from(text.len()).expect("short").to_le_bytes();
    let error = bus.write(&ram, CONTROL_START + control::PANIC, &length).expect_err("a panic");
    assert_eq!(error.to_string(), "the sandbox stopped: no memory left\\u{1b}[2J");
    let long = bus.write(&ram, CONTROL_START + control::PANIC, &[0xff; 4]).expect_err("a panic");
    assert!(matches!(long, VmError::Panic(text) if text.len() == 1024));
}

#[test]
fn there_is_nothing_beside_the_devices() {
    let ram = ram();
    let image = file(b"x");
    let mut bus = Bus::new(vec![backend(&image, false)]).expect("a bus");
    for address in [0, CONTROL_START - 4, CONTROL_START + 0x18, device_page(1), u64::MAX] {
        assert!(bus.write(&ram, address, &[0; 4]).is_err(), "{address:#x}");
        assert!(bus.read(&ram, address, &mut [0; 4]).is_err(), "{address:#x}");
    }
}

#[test]
fn one_file_is_not_two_devices_if_one_of_them_is_written() {
    let image = file(b"x");
    let again = image.try_clone().expect("cloned");
    assert!(Bus::new(vec![backend(&image, true), backend(&again, false)]).is_err());
    assert!(Bus::new(vec![backend(&image, false), backend(&again, false)]).is_ok());
    assert!(Bus::new((0..257).map(|_| backend(&image, false)).collect()).is_err(), "too many");
}
