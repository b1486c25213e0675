//! Jobs of a command that are run one after the other on the same files, each by a sandbox of its own.

use instar_abi::wire::Wire;

use super::job::Devices;
use super::sandbox::{Answer, OnProgress, Sandbox};
use crate::vm::VmError;

/// A job, and the files that it may read and write.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    /// One of [`instar_abi::job::operation`].
    pub(super) operation: u32,
    /// The files: the same ones for all stages of a command.
    pub(super) devices: &'a Devices<'a>,
    /// The job as the guest reads it.
    pub(super) job: &'a [u8],
    /// Whether there are ciphers or hashes to compute, for which the processor may have instructions.
    pub(super) has_ciphers: bool,
}

/// Runs jobs of one operation, each given by its devices and the operation's own part, until `goes_on` says no to an answer.
///
/// # Errors
/// Every way in which one of them ends without an answer.
pub(super) fn run_jobs<W: Wire>(
    sandbox: &mut impl Sandbox,
    operation: u32,
    jobs: &[(Devices<'_>, W)],
    memory_bytes: u64,
    progress: OnProgress<'_>,
    goes_on: &mut dyn FnMut(usize, &Answer) -> bool,
) -> Result<Vec<Answer>, VmError> {
    let bytes: Vec<_> = jobs.iter().map(|(devices, part)| devices.job(operation, part)).collect();
    // Several jobs are there to verify one another.
    let hashes = jobs.len() > 1;
    let stages: Vec<Stage<'_>> =
        jobs.iter().zip(&bytes).map(|((devices, _), job)| Stage::new(operation, devices, job, hashes)).collect();
    sandbox.run_all(&stages, memory_bytes, progress, goes_on)
}

impl<'a> Stage<'a> {
    /// A stage; `hashes` says whether there is something to digest.
    pub(super) fn new(operation: u32, devices: &'a Devices<'a>, job: &'a [u8], hashes: bool) -> Self {
        Self { operation, devices, job, has_ciphers: hashes || devices.has_secrets() }
    }
}
