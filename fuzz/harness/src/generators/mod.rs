//! Make inputs out of a fuzzer's bytes. Everything here is a pure function of them.

pub mod attack;
pub mod chain;
pub mod hostile;
pub mod patches;
pub mod secret;
pub mod seeds;
