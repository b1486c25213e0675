//! One case as the product carries it out: the files before and after, the job, and every request in between.

use crate::case::{Case, Operation};
use crate::fixture::{Workspace, list_files};
use crate::roles;
use crate::runner::inprocess::{Direct, Disk, Disks, carry_out, run_command};
use instar::session::{DeviceFile, Guest};
use instar::vm::VmError;
use instar_abi::job::operation;
use instar_exec::recording::{Recording, Request};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Files by their names relative to the case's folder.
pub type FileSet = BTreeMap<PathBuf, Disk>;

/// A job as the command line hands it to the sandbox.
#[derive(Clone, Debug)]
pub struct Run {
    /// One of [`operation`].
    pub operation: u32,
    /// The job's bytes.
    pub job: Vec<u8>,
    /// The file behind each device, and whether the job may change it.
    pub devices: Vec<(PathBuf, bool)>,
}

impl Run {
    /// The devices with what the files hold.
    pub fn disks(&self, files: &FileSet) -> Disks {
        Disks(self.devices.iter().map(|(name, _)| files.get(name).cloned().unwrap_or_default()).collect())
    }

    /// Puts the devices that may have changed back among the files.
    pub fn put_back(&self, disks: Disks, files: &mut FileSet) {
        for ((name, is_writable), disk) in self.devices.iter().zip(disks.0) {
            if *is_writable {
                files.insert(name.clone(), disk);
            }
        }
    }

    /// The files that the job may change.
    pub fn changed_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.devices.iter().filter(|(_, is_writable)| *is_writable).map(|(name, _)| name)
    }
}

/// A case that succeeds, recorded.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The case's name.
    pub name: String,
    /// The image named on the command line.
    pub overlay: PathBuf,
    /// Whether what the overlay shows may change when its header does: a rebase that is unsafe.
    pub is_unsafe: bool,
    /// The files before.
    pub before: FileSet,
    /// The files after.
    pub after: FileSet,
    /// The job.
    pub run: Run,
    /// The job of the same command on the files as they are after a rebase, where the overlay's old chain is another one.
    pub again: Option<Run>,
    /// What was asked of the devices.
    pub requests: Vec<Request>,
}

impl Trace {
    /// Runs a case and records it; `None` if the command fails or asks nothing of the devices.
    ///
    /// # Errors
    /// If the fixture cannot be used.
    pub fn record(case: &Case) -> Result<Option<Self>, String> {
        let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", case.name);
        let workspace = Workspace::unpack(&case.fixture).map_err(|error| shown(&error))?;
        let folder = workspace.path().canonicalize().map_err(|error| shown(&error))?;
        let before = read_files(&folder).map_err(|error| shown(&error))?;
        let Some(overlay) = roles::of(case, &folder).overlay else { return Ok(None) };
        let mut recorder = Recorder { folder: folder.clone(), recorded: None };
        let output = run_command(case.op.word(), &case.argv, &folder, &mut recorder).map_err(|error| shown(&error))?;
        let Some((run, requests)) = recorder.recorded.take().filter(|_| output.rc == Some(0)) else { return Ok(None) };
        if requests.iter().all(|request| request.changes().is_none()) {
            return Ok(None);
        }
        let after = read_files(&folder).map_err(|error| shown(&error))?;
        let mut again = None;
        if case.op == Operation::Rebase {
            run_command(case.op.word(), &case.argv, &folder, &mut recorder).map_err(|error| shown(&error))?;
            again = recorder.recorded.map(|(run, _)| run);
        }
        let is_unsafe = case.op == Operation::Rebase && case.argv.iter().any(|argument| argument == "-u");
        let overlay = PathBuf::from(overlay);
        Ok(Some(Self { name: case.name.clone(), overlay, is_unsafe, before, after, run, again, requests }))
    }
}

/// All files of a folder.
pub(super) fn read_files(folder: &Path) -> io::Result<FileSet> {
    let mut files = FileSet::new();
    for path in list_files(folder).map_err(io::Error::other)? {
        let name = path.strip_prefix(folder).map_err(io::Error::other)?.to_path_buf();
        files.insert(name, Disk::from_bytes(&fs::read(&path)?));
    }
    Ok(files)
}

/// Carries jobs out, and keeps the job and the requests of the one that changes something.
struct Recorder {
    folder: PathBuf,
    recorded: Option<(Run, Vec<Request>)>,
}

impl Guest for Recorder {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        if job_operation == operation::INFO {
            return Direct.run(job_operation, devices, job, progress);
        }
        let failed = |error: io::Error| VmError::Config(error.to_string());
        let run = Run {
            operation: job_operation,
            job: job.to_vec(),
            devices: devices.iter().map(|device| self.name(device)).collect::<io::Result<_>>().map_err(failed)?,
        };
        let path = |name: &PathBuf| self.folder.join(name);
        let read = |(name, _): &(PathBuf, bool)| Ok(Disk::from_bytes(&fs::read(path(name))?));
        let disks = run.devices.iter().map(read).collect::<io::Result<_>>().map_err(failed)?;
        let mut recording = Recording::new(Disks(disks));
        let area = carry_out(job_operation, job, &mut recording)?;
        for ((name, is_writable), disk) in run.devices.iter().zip(&recording.storage.0) {
            if *is_writable {
                fs::write(path(name), disk.to_bytes()).map_err(failed)?;
            }
        }
        self.recorded = Some((run, recording.requests));
        Ok(area)
    }
}

impl Recorder {
    fn name(&self, device: &DeviceFile<'_>) -> io::Result<(PathBuf, bool)> {
        let path = fs::read_link(format!("/proc/self/fd/{}", device.file.as_raw_fd()))?;
        let name = path.strip_prefix(&self.folder).map_err(io::Error::other)?;
        Ok((name.to_path_buf(), device.writable))
    }
}
