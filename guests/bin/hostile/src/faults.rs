//! Attacks on the processor and on memory.
#![expect(unsafe_code, reason = "attacks are not safe")]

use alloc::vec::Vec;
use core::arch::asm;
use core::ptr;

use instar_abi::memory::{
    DEVICES_START, HEAP_START, JOB_START, PROGRAM_END, PROGRAM_START, REPORT_BYTES, REPORT_START, STACK_END,
    STACK_START, TABLES_START,
};
use instar_abi::mmio::{CONTROL_START, device_page};

fn write(address: u64) {
    // SAFETY: none; the host is expected to stop the program.
    unsafe { ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(0x90) };
}

fn read(address: u64) {
    // SAFETY: none; the host is expected to stop the program.
    unsafe { ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() };
}

fn jump(address: u64) {
    // SAFETY: none; the host is expected to stop the program.
    unsafe { asm!("call {address}", address = in(reg) address) };
}

fn exhaust() {
    let mut blocks = Vec::new();
    loop {
        blocks.push(alloc::vec![1u8; 1 << 20]);
    }
}

#[expect(unconditional_recursion, reason = "the attack")]
fn recurse(depth: u64) -> u64 {
    let frame = [depth; 64];
    core::hint::black_box(&frame);
    recurse(depth + 1) + frame[(depth % 64) as usize]
}

/// Carries out the attack; it is over if this returns.
pub(crate) fn attack(number: u32, job: &[u8]) {
    match number {
        0 => write(PROGRAM_START),
        1 => jump(STACK_END - 64),
        2 => jump(HEAP_START + 4096),
        3 => read(0),
        4 => read(TABLES_START),
        5 => write(TABLES_START + 8),
        6 => write(STACK_START - 8),
        7 => write(STACK_END),
        8 => write(HEAP_START - 8),
        9 => write(REPORT_START + REPORT_BYTES),
        10 => write(PROGRAM_END - 8),
        11 => write(JOB_START),
        12 => write(DEVICES_START),
        13 => read(64 << 20),
        14 => read(1 << 46),
        15 => read(0x8000_0000_0000_0000),
        16 => read(CONTROL_START - 8),
        17 => write(device_page(2)),
        18 => jump(device_page(0)),
        19 => jump(JOB_START + u64::from(job[0])),
        20 => drop(core::hint::black_box(recurse(0))),
        21 => exhaust(),
        #[expect(clippy::empty_loop, reason = "the attack")]
        22 => loop {},
        // Spins with the processor's help.
        23 => loop {
            core::hint::spin_loop();
        },
        // Where Linux keeps the page of an older way to make system calls.
        24 => jump(0xffff_ffff_ff60_0000),
        _ => privileged(number),
    }
}

fn privileged(number: u32) {
    // SAFETY: none; the host is expected to stop the program.
    unsafe {
        match number {
            30 => asm!("out dx, al", in("dx") 0x3f8u16, in("al") 0u8),
            31 => asm!("in al, dx", in("dx") 0x64u16, out("al") _),
            32 => asm!("hlt"),
            33 => asm!("syscall", out("rcx") _, out("r11") _),
            34 => asm!("int 0x80"),
            35 => asm!("ud2"),
            36 => asm!("mov cr3, {zero}", zero = in(reg) 0u64),
            37 => asm!("wrmsr", in("ecx") 0xc000_0080u32, in("eax") 0, in("edx") 0),
            38 => asm!("cli"),
            39 => asm!("int3"),
            40 => asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _),
            41 => asm!("lidt [{place}]", place = in(reg) HEAP_START),
            // A far jump to a segment that does not exist.
            44 => asm!("push 8", "push 0", "retfq"),
            45 => asm!("iretq"),
            // The segment that Linux has for programs of 32 bits, and a system call from there.
            46 => {
                asm!("lea {place}, [rip + 2f]", "push 0x23", "push {place}", "retfq", "2:", "int 0x80", place = out(reg) _)
            }
            47 => asm!("sysenter"),
            48 => asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop"),
            _ => {}
        }
    }
}
