//! Devices of which one request fails: the operation must end with an error, and leave what a crash may leave.

use super::trace::{FileSet, Trace, read_files};
use super::verdict::Judge;
use crate::case::Case;
use crate::fixture::Workspace;
use crate::runner::inprocess::{Direct, FileStorage, carry_out, run_command};
use instar::session::{DeviceFile, Guest};
use instar::vm::VmError;
use instar_abi::report::{ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::recording::SECTOR_BYTES;
use instar_exec::{CompareSegment, CopySegment, DeviceId, Operation, Storage, StorageError};
use nix::libc::{EIO, ENOSPC};

/// What qemu-img says, and all that it says, where a rebase cannot read.
const WHICH_READ: &str = "error while reading from ";

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The medium does not answer.
    IoError,
    /// The medium is full: everything that takes space fails from then on.
    NoSpace,
    /// Half of the bytes come, then the medium does not answer.
    ShortRead,
    /// About half of the bytes are written, then the medium is full.
    ShortWrite,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::IoError, Self::NoSpace, Self::ShortRead, Self::ShortWrite];

    fn errno(self) -> i32 {
        match self {
            Self::IoError | Self::ShortRead => EIO,
            Self::NoSpace | Self::ShortWrite => ENOSPC,
        }
    }

    /// What the user has to read.
    fn words(self) -> &'static str {
        match self {
            Self::IoError | Self::ShortRead => "Input/output error",
            Self::NoSpace | Self::ShortWrite => "No space left on device",
        }
    }

    fn concerns(self, operation: Operation) -> bool {
        let reads = matches!(operation, Operation::Read | Operation::Compare);
        let takes_space = !reads && !matches!(operation, Operation::Discard);
        match self {
            Self::IoError => true,
            Self::NoSpace => takes_space,
            Self::ShortRead => operation == Operation::Read,
            Self::ShortWrite => operation == Operation::Write,
        }
    }
}

/// Counts the requests that a fault concerns, over all jobs of a command, and fails one of them.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Fault,
    /// How many go well before.
    left: u64,
    /// How many have been made.
    seen: u64,
    has_failed: bool,
}

impl Plan {
    /// Fails request number `at` among those that the fault concerns, counted from 0.
    fn new(fault: Fault, at: u64) -> Self {
        Self { fault, left: at, seen: 0, has_failed: false }
    }

    fn step(&mut self, device: DeviceId, operation: Operation, offset: u64) -> Result<(), StorageError> {
        if !self.fault.concerns(operation) {
            return Ok(());
        }
        self.seen += 1;
        if self.left > 0 {
            self.left -= 1;
            return Ok(());
        }
        if self.has_failed && self.fault != Fault::NoSpace {
            return Ok(());
        }
        self.has_failed = true;
        Err(StorageError { device, operation, offset, errno: self.fault.errno() })
    }
}

/// Devices that fail as planned.
struct Faulty<'a, S> {
    storage: S,
    plan: &'a mut Plan,
}

impl<S: Storage> Storage for Faulty<'_, S> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.storage.length_bytes(device)
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.plan.step(device, Operation::Read, offset).inspect_err(|_| buffer.fill(0xdb))?;
        self.storage.read(device, offset, buffer)
    }

    fn compare(
        &mut self,
        device: DeviceId,
        segments: &[CompareSegment],
        verdicts: &mut Vec<instar_exec::Verdict>,
    ) -> Result<(), StorageError> {
        self.plan.step(device, Operation::Compare, 0)?;
        self.storage.compare(device, segments, verdicts)
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if let Err(error) = self.plan.step(device, Operation::Write, offset) {
            if self.plan.fault == Fault::ShortWrite {
                // File systems stop between blocks, if at all.
                let end = (offset + bytes.len() as u64 / 2) / SECTOR_BYTES * SECTOR_BYTES;
                let count = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
                self.storage.write(device, offset, &bytes[..count])?;
            }
            return Err(error);
        }
        self.storage.write(device, offset, bytes)
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        self.plan.step(device, Operation::WriteZeroes, offset)?;
        self.storage.write_zeroes(device, offset, length_bytes, may_unmap)
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.plan.step(device, Operation::Discard, offset)?;
        self.storage.discard(device, offset, length_bytes)
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        for segment in segments {
            self.plan.step(target, Operation::Copy, segment.target_offset)?;
            self.storage.copy(target, &[*segment])?;
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.plan.step(device, Operation::Resize, length_bytes)?;
        self.storage.resize(device, length_bytes)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.storage.settle()
    }

    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.plan.step(device, Operation::Flush, 0)?;
        self.storage.flush(device)
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.storage.progress(done_bytes, total_bytes);
    }
}

/// The sandbox's place, with files that fail as planned.
struct FaultyFiles(Plan);

impl Guest for FaultyFiles {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        let mut storage = Faulty { storage: FileStorage::new(devices, progress), plan: &mut self.0 };
        carry_out(job_operation, job, &mut storage)
    }
}

/// What was tried and found.
#[derive(Clone, Debug, Default)]
pub struct FaultTally {
    /// Requests that were made to fail.
    pub injected: u64,
    /// One text for each that did not end well.
    pub failures: Vec<String>,
}

/// Makes every request of a case's job fail in every way, over disks in memory; afterwards what holds after a crash must hold.
///
/// # Errors
/// If the fixture cannot be used.
pub fn fail_every_request(case: &Case) -> Result<FaultTally, String> {
    let mut tally = FaultTally::default();
    let Some(trace) = Trace::record(case)? else { return Ok(tally) };
    let judge = Judge::new(&trace);
    for fault in Fault::ALL {
        for at in 0.. {
            let mut plan = Plan::new(fault, at);
            let mut devices = Faulty { storage: trace.run.disks(&trace.before), plan: &mut plan };
            let ended = carry_out(trace.run.operation, &trace.run.job, &mut devices);
            let disks = devices.storage;
            if !plan.has_failed {
                break;
            }
            tally.injected += 1;
            let verdict = match ended {
                Err(error) => Err(error.to_string()),
                Ok(area) if ReportHeader::get(&area).outcome != outcome::FAILED => Err("reported as a success".into()),
                Ok(area) if ReportHeader::get(&area).errno != fault.errno() => Err("another error is reported".into()),
                Ok(_) => judge.judge(disks),
            };
            if let Err(finding) = verdict {
                tally.failures.push(format!("{}: {fault:?} at request {at}: {finding}", case.name));
            }
        }
    }
    Ok(tally)
}

/// As [`fail_every_request`], through the product's command line and on files: exit status and message are judged, and the same
/// command without the fault has to complete the work.
///
/// # Errors
/// If the fixture cannot be used.
pub fn fail_every_request_of_the_command(case: &Case, fault: Fault) -> Result<FaultTally, String> {
    let mut tally = FaultTally::default();
    let Some(trace) = Trace::record(case)? else { return Ok(tally) };
    let judge = Judge::new(&trace);
    for at in 0.. {
        let workspace = Workspace::unpack(&case.fixture).map_err(|error| error.to_string())?;
        let mut guest = FaultyFiles(Plan::new(fault, at));
        let run = |guest: &mut (dyn Guest + Send)| {
            run_command(case.op.word(), &case.argv, workspace.path(), guest).map_err(|error| error.to_string())
        };
        let output = run(&mut guest)?;
        if !guest.0.has_failed {
            return Ok(tally);
        }
        tally.injected += 1;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let says_why = said.contains(fault.words()) || said.contains(WHICH_READ);
        let told = output.rc == Some(1) && said.starts_with("instar: ") && says_why;
        let again = run(&mut Direct)?;
        let files: FileSet = read_files(workspace.path()).map_err(|error| error.to_string())?;
        let verdict = if told && !output.stdout.starts_with(b"Image committed") {
            match again.rc {
                Some(0) => judge.judge_completion(&files),
                _ => Err(format!("the same command fails: {}", String::from_utf8_lossy(&again.stderr))),
            }
        } else {
            Err(format!("exit status {:?}, message {said:?}", output.rc))
        };
        if let Err(finding) = verdict {
            tally.failures.push(format!("{}: {fault:?} at request {at}: {finding}", case.name));
        }
    }
    Ok(tally)
}
