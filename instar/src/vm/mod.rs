//! The machine that a guest program runs on: KVM or a process, guest memory and page tables, the program loader, the run
//! loops and the watchdog.
//!
//! Knows guest addresses and nothing of images or devices: accesses to device pages go to a [`MmioBus`]. Together with
//! `jail` this is the only place of the host program with `unsafe` in it.

mod elf;
mod error;
mod kvm;
mod layout;
mod machine;
mod memory;
mod paging;
mod process;
mod registers;
mod run;
pub mod volatile_io;
mod watchdog;

pub use error::VmError;
pub use kvm::{Hypervisor, KVM_DEVICE};
pub use machine::{BusAction, MmioBus, Platform, Prepared, Run, Vm};
pub use memory::{DmaMemory, GuestRam};
pub use process::probe as probe_process;
pub use watchdog::Watchdog;
