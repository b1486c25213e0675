//! What lies where in a guest's memory, and what the guest may do there: the same for every kind of sandbox.

use instar_abi::memory::{
    DEVICES_BYTES, DEVICES_START, HEAP_START, JOB_BYTES, JOB_START, REPORT_BYTES, REPORT_START, SHARED_BYTES,
    SHARED_START, STACK_END, STACK_START,
};

use super::elf::Program;

/// What the guest may do with a page. There is no variant for writing and executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Read and execute.
    ReadExecute,
    /// Read and write.
    ReadWrite,
}

/// A piece of memory that the guest reaches; both ends are multiples of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// First address.
    pub(crate) start: u64,
    /// First address behind it.
    pub(crate) end: u64,
    /// What the guest may do there.
    pub(crate) access: Access,
}

/// All memory that a guest with this program reaches. Device pages are not among it: there is no memory behind them.
pub(crate) fn regions(program: &Program<'_>, memory_bytes: u64) -> Vec<Region> {
    let region = |start, end, access| Region { start, end, access };
    let mut regions: Vec<Region> = program.regions().collect();
    regions.extend([
        region(JOB_START, JOB_START + JOB_BYTES, Access::Read),
        region(DEVICES_START, DEVICES_START + DEVICES_BYTES, Access::Read),
        region(SHARED_START, SHARED_START + SHARED_BYTES, Access::ReadWrite),
        region(REPORT_START, REPORT_START + REPORT_BYTES, Access::ReadWrite),
        region(STACK_START, STACK_END, Access::ReadWrite),
        region(HEAP_START, memory_bytes, Access::ReadWrite),
    ]);
    regions
}
