//! What the fuzz targets do, apart from the fuzzer: `generators` make images, chains and requests out of a fuzzer's bytes,
//! `oracles` say what must hold whatever these are, `targets` put one of each together.
//!
//! `cargo test` replays seeds and regressions through the same targets, so that nothing here needs a fuzzer to be checked.

pub mod generators;
pub mod jobs;
pub mod oracles;
pub mod targets;

#[path = "../../../guests/exec/tests/luks_support/images.rs"]
mod images;
#[path = "../../../guests/exec/tests/luks_support/maker.rs"]
mod maker;
#[path = "../../../guests/exec/tests/support/recount.rs"]
mod recount;
/// Images, jobs and a reader of chains, shared with the executor's own tests.
#[path = "../../../guests/exec/tests/support/mod.rs"]
mod support;
