//! The guest programs: those that were built with this host and stand in it, and others that tests bring.
//!
//! Knows which program carries out which operation, and how long its report is; of ELF files it knows nothing.

use instar_abi::job::operation;
use instar_abi::report::{CommitReport, InfoReport, MapReport, RebaseReport};
use instar_abi::wire::Wire;

use crate::vm::{Platform, Prepared, VmError};

/// Bytes that start on a page, so that a machine can have them as memory.
#[repr(C, align(4096))]
struct OnPages<B: ?Sized>(B);

/// The file that the build script has made of a program.
macro_rules! embedded {
    ($name:literal) => {{
        static FILE: &OnPages<[u8]> = &OnPages(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bin")));
        &FILE.0
    }};
}

/// A program for the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct GuestProgram<'a> {
    file: File<'a>,
    report_bytes: usize,
    /// How much of the heap its smallest jobs use, in bytes.
    heap_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum File<'a> {
    /// Stands in this program.
    Resident(&'static [u8]),
    /// Comes from somewhere else.
    Passing(&'a [u8]),
}

impl GuestProgram<'static> {
    /// The program for an operation of [`instar_abi::job::operation`].
    #[must_use]
    pub fn embedded(job_operation: u32) -> Option<Self> {
        let (file, report_bytes, heap_bytes): (&'static [u8], _, _) = match job_operation {
            operation::INFO => (embedded!("info"), InfoReport::SIZE_BYTES, 32 << 10),
            operation::COMMIT => (embedded!("commit"), CommitReport::SIZE_BYTES, 384 << 10),
            operation::REBASE => (embedded!("rebase"), RebaseReport::SIZE_BYTES, 128 << 10),
            operation::MAP => (embedded!("map"), MapReport::SIZE_BYTES, 128 << 10),
            _ => return None,
        };
        Some(Self { file: File::Resident(file), report_bytes, heap_bytes })
    }
}

impl<'a> GuestProgram<'a> {
    /// Another program, for tests: an ELF file, and the length of its report between header and payload.
    #[must_use]
    pub fn from_elf(elf: &'a [u8], report_bytes: usize) -> Self {
        Self { file: File::Passing(elf), report_bytes, heap_bytes: 0 }
    }

    /// Makes a machine for the program, before anything is known of its job.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn prepare(self, platform: &Platform, memory_bytes: u64) -> Result<Prepared, VmError> {
        match self.file {
            File::Resident(file) => Prepared::resident(platform, file, memory_bytes),
            File::Passing(file) => Prepared::new(platform, file, memory_bytes),
        }
    }

    /// Makes the memory that each of its jobs uses in one go, rather than page by page when it is first used.
    pub(crate) fn make_heap(self, machine: &Prepared) {
        machine.make_heap(self.heap_bytes);
    }

    /// Does with a machine, for somebody who has to wait for its job anyhow, what otherwise takes a while when that begins. The machine
    /// should run on the calling thread then.
    ///
    /// # Errors
    /// As [`Prepared::enter_in_vain`].
    pub fn warm_up(self, mut machine: Prepared, platform: &Platform) -> Result<Prepared, VmError> {
        self.make_heap(&machine);
        machine.enter_in_vain(platform)?;
        Ok(machine)
    }

    /// Length of its report between header and payload, in bytes.
    #[must_use]
    pub fn report_bytes(self) -> usize {
        self.report_bytes
    }
}

/// The program that packs and unpacks beside a job.
pub(crate) fn codec() -> &'static [u8] {
    embedded!("codec")
}
