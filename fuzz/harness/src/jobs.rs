//! Jobs as the host writes them, for images in memory: one device a layer, all writable.

use instar_abi::job::{JobHeader, RebaseJob, operation};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;

pub(crate) use crate::support::job as commit;

/// An info job for one image of a format.
pub(crate) fn info(format: u32) -> Vec<u8> {
    for_operation(operation::INFO, &[format])
}

/// A rebase job.
pub(crate) fn rebase(formats: &[u32], part: &RebaseJob) -> Vec<u8> {
    let mut job = for_operation(operation::REBASE, formats);
    job.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    part.put(&mut job[OPERATION_PART_OFFSET..]);
    job
}

fn for_operation(operation: u32, formats: &[u32]) -> Vec<u8> {
    let mut job = commit(formats, 1, 0);
    JobHeader { operation, ..JobHeader::get(&job) }.put(&mut job);
    job
}
