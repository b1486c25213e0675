//! The virtio driver: turns calls of [`instar_exec::Storage`] into batches of block requests.
//!
//! Reaches the devices through [`Transport`] only, so that it runs in tests against a device made of a byte vector.

mod device;
mod memory;
#[cfg(test)]
mod mock;
mod ring;
mod storage;
#[cfg(test)]
mod tests;

pub use storage::VirtioStorage;

use instar_abi::memory::DeviceState;

/// What the driver needs of the machine.
pub trait Transport {
    /// Tells a device of its driver, by the address of an [`instar_abi::mmio::Attach`], and rings its doorbell as
    /// [`Transport::notify`] does.
    fn attach_and_notify(&mut self, device: u32, attach_address: u64);
    /// Rings a device's doorbell; everything in its queue is complete when this returns.
    fn notify(&mut self, device: u32);
    /// What the host says of a device right now.
    fn device_state(&self, device: u32) -> DeviceState;
    /// Whether devices may reach this memory.
    fn reachable(&self, address: u64, length_bytes: usize) -> bool;
    /// Says how far the job is.
    fn progress(&mut self, done_bytes: u64, total_bytes: u64);
}
