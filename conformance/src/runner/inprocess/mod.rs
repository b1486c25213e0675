//! The product without its virtual machine: its own command line, planner and executor in this process, on the case's files.
//!
//! Cannot see: what only the virtual machine, the device layer or the program's start and end would do wrong; that is what the
//! runner of the built program is for.

mod disk;
mod files;
pub mod workload;

pub use disk::{Disk, Disks};
pub use files::FileStorage;
pub use workload::Workload;

use super::{Program, RunOutput, format_of};
use crate::case::Case;
use instar::session::{DeviceFile, Guest};
use instar::vm::VmError;
use instar_abi::job::operation;
use instar_abi::memory::REPORT_BYTES;
use instar_exec::Storage;
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

/// The product, in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Program for InProcess {
    fn run_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput> {
        run_command(case.op.word(), &case.argv, folder, &mut Direct)
    }

    fn info(&self, version: &str, folder: &Path, file: &str) -> io::Result<RunOutput> {
        let format = format_of(file).map(|format| ["-f", format]);
        let fixed = ["--qemu-version", version, "--output=json"];
        let arguments = fixed.iter().chain(format.iter().flatten()).chain([&file]);
        run_command("info", &arguments.map(ToString::to_string).collect::<Vec<_>>(), folder, &mut Direct)
    }

    fn is_shown_to_qemu_img(&self) -> bool {
        // It is shown what the built program leaves, which is the same.
        false
    }

    fn describe(&self, case: &Case) -> String {
        format!("cargo test -p conformance --test inprocess_matrix -- --exact {}", case.name)
    }
}

/// Runs a command of the product in `folder`, with `guest` in the sandbox's place.
///
/// # Errors
/// If a thread with a working directory of its own cannot be had.
pub fn run_command(
    command: &str,
    arguments: &[String],
    folder: &Path,
    guest: &mut (dyn Guest + Send),
) -> io::Result<RunOutput> {
    // qemu-img follows every name that an image records; the private folder is all that a fixture can mean.
    let mut all: Vec<OsString> = vec!["instar".into(), command.into(), "--allow-dir".into(), folder.into()];
    all.extend(arguments.iter().map(OsString::from));
    let run = || -> io::Result<RunOutput> {
        unshare(CloneFlags::CLONE_FS)?;
        std::env::set_current_dir(folder)?;
        let ended = instar::cli::run_with(&all, guest);
        Ok(RunOutput { rc: Some(ended.status.into()), stdout: ended.stdout, stderr: ended.stderr })
    };
    // A working directory belongs to a thread that has left its process's.
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|_| Err(io::Error::other("the command panicked"))))
}

/// Carries jobs out on the files as they are.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

impl Guest for Direct {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        carry_out(job_operation, job, &mut FileStorage::new(devices, progress))
    }
}

/// Carries a job out and gives the report area. A panic ends it as it ends the sandbox.
///
/// # Errors
/// The panic.
pub fn carry_out(job_operation: u32, job: &[u8], storage: &mut dyn Storage) -> Result<Vec<u8>, VmError> {
    let mut area = vec![0; usize::try_from(REPORT_BYTES).unwrap_or(0)];
    let ended = catch_unwind(AssertUnwindSafe(|| match job_operation {
        operation::INFO => instar_exec::info::run(job, storage, &mut area),
        operation::COMMIT => instar_exec::commit::run(job, storage, &mut area),
        operation::REBASE => instar_exec::rebase::run(job, storage, &mut area),
        operation::MAP => instar_exec::map::run(job, storage, &mut area),
        other => panic!("there is no operation {other}"),
    }));
    match ended {
        Ok(()) => Ok(area),
        Err(payload) => Err(VmError::Panic(panic_text(payload.as_ref()))),
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}
