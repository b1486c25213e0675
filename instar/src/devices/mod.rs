//! What the guest sees outside of its memory: one control page and one virtio block device a file.
//!
//! Everything that comes from the guest is hostile here: registers, rings, descriptors, requests. A request that an honest
//! driver may make but that cannot be done is answered with an error; what no honest driver does ends the run.

mod backend;
mod bulk;
mod bus;
mod chain;
mod codec_machines;
mod compare;
mod conduit;
mod copy;
mod counters;
mod direct;
mod executor;
mod file_system;
mod holes;
mod pace;
mod pack;
mod probes;
mod rehearsal;
mod request;
mod ring;
mod runs;
mod throttle;
mod transport;
mod unpack;
mod zero;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Flushing};
pub use bus::Bus;
pub use codec_machines::CodecMachines;
pub use counters::Counters;
pub use rehearsal::{Effects, data_bytes, obstacle};
pub(crate) use ring::Rings;
