//! The contract between the host program and the guest programs.
//!
//! Knows every number, offset and structure that both sides must agree on: where memory lies, which registers a device
//! has, how block requests look, and how a job goes in and a report comes out. Has no dependencies and does nothing.
//! `tripwires` pins each number at compile time: the two sides are built together, but a change here is a change of the
//! contract and must be meant.
#![no_std]

#[macro_use]
pub mod wire;

pub mod block;
pub mod codec_machine;
pub mod job;
pub mod memory;
pub mod mmio;
pub mod report;
mod tripwires;
