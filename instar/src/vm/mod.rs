//! The virtual machine: KVM, guest memory and page tables, the program loader, the run loop and its watchdog.
//!
//! Knows guest addresses and nothing of images or devices: accesses to device pages go to a [`MmioBus`]. Together with
//! `jail` this is the only place of the host program with `unsafe` in it.

mod elf;
mod error;
mod kvm;
mod memory;
mod paging;
mod registers;
mod run;
pub mod volatile_io;
mod watchdog;

pub use error::VmError;
pub use kvm::{Hypervisor, KVM_DEVICE};
pub use memory::{DmaMemory, GuestRam};
pub use run::{BusAction, MmioBus, Prepared, Vm};
pub use watchdog::Watchdog;
