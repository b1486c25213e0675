//! The machine: fixed places of memory and device registers.
#![expect(clippy::cast_possible_truncation, reason = "a pointer is 64 bits wide here")]
#![expect(unsafe_code, reason = "fixed addresses and device registers have no safe interface")]

use core::arch::asm;
use core::ptr;
use core::slice;

use instar_abi::codec_machine::{
    PACKED_BYTES, PACKED_IN_SLOT, SLOTS, TABLE_BYTES, TURN_START, UNPACKED_BYTES, UNPACKED_IN_SLOT, slot_start,
};
use instar_abi::job::MAX_DEVICES;
use instar_abi::memory::{
    DEVICES_START, DeviceState, HEAP_START, JOB_BYTES, JOB_START, PANIC_TEXT_BYTES, REPORT_BYTES, REPORT_START,
    SHARED_DONE_BYTES, SHARED_PANIC_TEXT, SHARED_START, SHARED_TOTAL_BYTES,
};
use instar_abi::mmio::{CONTROL_START, control, device_page, register};
use instar_abi::wire::Wire;

use crate::Transport;

/// The machine that the program runs on.
#[derive(Debug)]
pub struct Machine;

/// The job.
pub(super) fn job() -> &'static [u8] {
    let start = ptr::with_exposed_provenance(JOB_START as usize);
    // SAFETY: the host maps this memory for reading, and nobody writes to it while the program runs.
    unsafe { slice::from_raw_parts(start, JOB_BYTES as usize) }
}

/// The place of the report. To be called once.
pub(super) fn report() -> &'static mut [u8] {
    let start = ptr::with_exposed_provenance_mut(REPORT_START as usize);
    // SAFETY: the host maps this memory for reading and writing, and nobody else uses it while the program runs.
    unsafe { slice::from_raw_parts_mut(start, REPORT_BYTES as usize) }
}

/// Shows the slot whose turn it is in a machine that packs and unpacks, as table, packed and unpacked bytes, and then says that what
/// is in it is done. Returns when it is the next slot's turn.
pub(super) fn with_batch(work: impl FnOnce(&mut [u8], &mut [u8], &mut [u8])) {
    let turn = ptr::with_exposed_provenance::<u32>(TURN_START as usize);
    // SAFETY: the host maps this memory, and changes the number only while the program waits below.
    let slot = unsafe { turn.read_volatile() };
    assert!(slot < SLOTS, "there is no slot {slot}");
    let place = |offset: u64| ptr::with_exposed_provenance_mut((slot_start(slot) + offset) as usize);
    // SAFETY: this memory lies in front of the heap and is used for nothing else; the host writes to a slot only while it is not
    // that slot's turn, or while the program waits below, when these borrows have ended.
    let table = unsafe { slice::from_raw_parts_mut(place(0), TABLE_BYTES as usize) };
    // SAFETY: as above.
    let packed = unsafe { slice::from_raw_parts_mut(place(PACKED_IN_SLOT), PACKED_BYTES as usize) };
    // SAFETY: as above.
    let unpacked = unsafe { slice::from_raw_parts_mut(place(UNPACKED_IN_SLOT), UNPACKED_BYTES as usize) };
    work(table, packed, unpacked);
    write_register(CONTROL_START + control::BATCH_DONE, 1);
}

/// Says that the report is complete; the host never goes on with the program.
pub fn done() -> ! {
    write_register(CONTROL_START + control::DONE, 1);
    #[expect(clippy::empty_loop, reason = "never reached: the host has stopped the machine")]
    loop {}
}

/// Leaves last words; the host never goes on with the program.
pub(super) fn give_up(text: &[u8]) -> ! {
    let length = text.len().min(PANIC_TEXT_BYTES as usize);
    let place = ptr::with_exposed_provenance_mut((SHARED_START + SHARED_PANIC_TEXT) as usize);
    // SAFETY: the host maps this memory for writing, it is long enough, and the text lies elsewhere.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), place, length) };
    write_register(CONTROL_START + control::PANIC, u32::try_from(length).unwrap_or(0));
    #[expect(clippy::empty_loop, reason = "never reached: the host has stopped the machine")]
    loop {}
}

/// Writes a device register of 4 bytes. The device may read and write all memory that it can reach.
fn write_register(address: u64, value: u32) {
    // SAFETY: the address is that of a device page; the compiler is told to expect any memory to change.
    unsafe {
        asm!("mov dword ptr [{address}], {value:e}", address = in(reg) address, value = in(reg) value,
            options(nostack, preserves_flags));
    }
}

fn write_register_u64(address: u64, value: u64) {
    // SAFETY: the address is that of a device page; the compiler is told to expect any memory to change.
    unsafe {
        asm!("mov qword ptr [{address}], {value}", address = in(reg) address, value = in(reg) value,
            options(nostack, preserves_flags));
    }
}

fn write_shared(offset: u64, value: u64) {
    let place = ptr::with_exposed_provenance_mut::<u64>((SHARED_START + offset) as usize);
    // SAFETY: the host maps this memory for writing; the place is aligned and used for nothing else.
    unsafe { place.write_volatile(value) };
}

impl Transport for Machine {
    fn attach_and_notify(&mut self, device: u32, attach_address: u64) {
        write_register_u64(device_page(device) + register::ATTACH, attach_address);
    }

    fn notify(&mut self, device: u32) {
        write_register(device_page(device) + register::QUEUE_NOTIFY, 0);
    }

    fn device_state(&self, device: u32) -> DeviceState {
        assert!((device as usize) < MAX_DEVICES, "device out of range");
        let place = DEVICES_START as usize + device as usize * DeviceState::SIZE_BYTES;
        let place = ptr::with_exposed_provenance::<[u8; DeviceState::SIZE_BYTES]>(place);
        // SAFETY: the host maps this memory for reading, and changes it only during a doorbell.
        let bytes = unsafe { place.read_volatile() };
        DeviceState::get(&bytes)
    }

    fn reachable(&self, address: u64, _length_bytes: usize) -> bool {
        // The heap is the last thing in memory, so what starts in it ends in it.
        address >= HEAP_START
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        write_shared(SHARED_TOTAL_BYTES, total_bytes);
        write_shared(SHARED_DONE_BYTES, done_bytes);
    }
}
