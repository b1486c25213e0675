//! The processor's state at the start: ring 3 of long mode, with no interrupt table and no way to a lower ring.

use instar_abi::memory::STACK_END;
use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::error::VmError;
use super::paging::PageTables;

/// Protection, extension type, monitor coprocessor, numeric error, write protect, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// Physical address extension, SSE instructions and their exceptions.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// Long mode enabled and active, no-execute. No system calls.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// Bit 1 is always set; interrupts are off, and the I/O privilege level is 0.
const RFLAGS: u64 = 1 << 1;
const CODE_SELECTOR: u16 = 0x33;
const DATA_SELECTOR: u16 = 0x2b;

/// Puts the processor at the program's entry, which is called with the size of the memory.
///
/// `supported` is what KVM offers of the processor below, as far as the program has use for it.
pub(crate) fn enter_ring_3(
    vcpu: &VcpuFd,
    entry: u64,
    memory_bytes: u64,
    supported: &[kvm_cpuid_entry2],
) -> Result<(), VmError> {
    vcpu.set_cpuid2(&cpuid(supported)?).map_err(|error| VmError::setup("describing the processor", error))?;

    let mut system = vcpu.get_sregs().map_err(|error| VmError::setup("reading the processor's registers", error))?;
    system.cs = segment(CODE_SELECTOR, 0b1011, true);
    let data = segment(DATA_SELECTOR, 0b0011, false);
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    // Entering a guest needs a task register that holds a busy 64-bit task segment. Its limit leaves no room for an I/O
    // permission map.
    system.tr = kvm_segment { base: 0, limit: 0x67, selector: 0, type_: 11, present: 1, ..kvm_segment::default() };
    system.ldt = kvm_segment { unusable: 1, type_: 2, ..kvm_segment::default() };
    (system.gdt.base, system.gdt.limit) = (0, 0);
    (system.idt.base, system.idt.limit) = (0, 0);
    (system.cr0, system.cr3, system.cr4, system.efer) = (CR0, PageTables::root(), CR4, EFER);
    vcpu.set_sregs(&system).map_err(|error| VmError::setup("setting the processor's system registers", error))?;

    let general = kvm_regs {
        rip: entry,
        rdi: memory_bytes,
        // As if the entry had been called: its frame is aligned to 16 bytes after the return address.
        rsp: STACK_END - 8,
        rflags: RFLAGS,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&general).map_err(|error| VmError::setup("setting the processor's registers", error))
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    }
}

/// SSE3, carry-less multiplication, SSSE3, SSE4.1 and SSE4.2, AES: what ciphers are made of. None has state of its own.
const CIPHER_FEATURES: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 19 | 1 << 20 | 1 << 25;
/// Instructions for SHA-1 and SHA-256.
const HASH_FEATURES: u32 = 1 << 29;

/// A plain 64-bit processor, with the instructions for ciphers and hashes that the one below has. KVM looks here for what
/// the guest's paging may use, and the guest for these instructions.
fn cpuid(supported: &[kvm_cpuid_entry2]) -> Result<CpuId, VmError> {
    let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() };
    // FPU, TSC, MSR, PAE, CX8, APIC, CMOV, FXSR, SSE, SSE2.
    let features = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;
    let below = |function| {
        supported.iter().find(|entry| entry.function == function && entry.index == 0).copied().unwrap_or_default()
    };
    let entries = [
        entry(0, 7, 0, 0, 0),
        entry(1, 0x0f00, 0, below(1).ecx & CIPHER_FEATURES, features),
        entry(7, 0, below(7).ebx & HASH_FEATURES, 0, 0),
        entry(0x8000_0000, 0x8000_0008, 0, 0, 0),
        // No-execute and long mode.
        entry(0x8000_0001, 0x0f00, 0, 0, 1 << 20 | 1 << 29),
        // 36 bits of physical addresses, 48 bits of virtual addresses.
        entry(0x8000_0008, 36 | 48 << 8, 0, 0, 0),
    ];
    CpuId::from_entries(&entries).map_err(|_| VmError::Program("asks for too long a processor description"))
}
