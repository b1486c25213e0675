//! Jobs as the host writes them, for images in memory: one device a layer, all writable.

use instar_abi::job::{JobHeader, MapJob, RebaseJob, operation};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;

use crate::support;

/// A commit into layer `base_layer`; `flags` are bits of [`instar_abi::job::commit_flag`].
#[must_use]
pub fn commit(formats: &[u32], base_layer: u32, flags: u32) -> Vec<u8> {
    support::job(formats, base_layer, flags)
}

/// An info job for one image of a format.
#[must_use]
pub fn info(format: u32) -> Vec<u8> {
    for_operation(operation::INFO, &[format])
}

/// A rebase job.
#[must_use]
pub fn rebase(formats: &[u32], part: &RebaseJob) -> Vec<u8> {
    let mut job = for_operation(operation::REBASE, formats);
    job.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    part.put(&mut job[OPERATION_PART_OFFSET..]);
    job
}

/// A map job.
#[must_use]
pub fn map(formats: &[u32], columns: u32) -> Vec<u8> {
    let mut job = for_operation(operation::MAP, formats);
    job.resize(OPERATION_PART_OFFSET + MapJob::SIZE_BYTES, 0);
    MapJob { columns, reserved: 0 }.put(&mut job[OPERATION_PART_OFFSET..]);
    job
}

fn for_operation(operation: u32, formats: &[u32]) -> Vec<u8> {
    let mut job = commit(formats, 1, 0);
    JobHeader { operation, ..JobHeader::get(&job) }.put(&mut job);
    job
}
