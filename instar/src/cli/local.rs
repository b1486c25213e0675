//! What carries jobs out: this machine's sandbox, or something in its place.

use std::cell::RefCell;

use instar_abi::job::operation;
use instar_abi::memory::DEFAULT_MEMORY_BYTES;

use super::coming::Coming;
use super::job::Devices;
use super::output::warn;
use super::runner;
use super::sandbox::{Answer, OnProgress, Rehearsed, Sandbox};
use super::stage::Stage;
use super::stats::Run;
use crate::apart::{self, Spare};
use crate::files::open_again_for_reading;
use crate::jail::worker::Leaving;
use crate::jail::{self, Jail, Purpose, Runner};
use crate::program::GuestProgram;
use crate::session::{DeviceFile, Guest, Report, Session, prepare_codec_machines};
use crate::vm::{Platform, Prepared, VmError};

/// How long the files of a job are together if there are machines to pack and unpack for it.
const CODEC_MACHINES_FROM_BYTES: u64 = 16 << 20;

/// The sandbox on this machine, which is opened when the first job comes.
///
/// An image is looked at in a worker process that has nothing but that image, read-only, and no lock of it; several can come
/// one after the other, and the files that they lead to are opened between them. The job that writes is the last of a command
/// and has all files open: it runs in this process, which is jailed from then on, and so do those that verify it, each with a
/// machine of its own that was made before. So nobody is left that could still write when this process is killed. Only a job
/// that may turn out to need more files is tried in a worker process; it has one header to write, and dies with this process.
#[derive(Default)]
pub(super) struct LocalSandbox {
    runner: Runner,
    platform: Option<Platform>,
    /// The job that will come last: its machine gets ready while images are looked at.
    coming: Coming,
    /// A worker process for the next image, which gets ready while something else is done.
    spare: Option<Result<Spare, VmError>>,
    jail_must_be_whole: bool,
    leaving: Vec<Leaving>,
    /// What has been said of a jail that is not whole; one command says it once.
    warned: Vec<String>,
    efforts: Vec<Run>,
}

impl LocalSandbox {
    /// Makes the worker process for the first image, of which nothing is known yet. What fails here is told when it is needed, if it
    /// fails then as well.
    pub(super) fn foresee_a_look(&mut self) {
        if std::env::var_os(runner::VARIABLE).is_some() {
            return;
        }
        if let (Ok(platform), Ok(program)) = (open_once(&mut self.platform, Runner::Kvm), program(operation::INFO)) {
            self.spare = Spare::make(platform, program, DEFAULT_MEMORY_BYTES).ok().map(Ok);
        }
    }

    /// Tells which layers of the jail did not hold while a report was made.
    fn warn(&mut self, report: &Report) {
        for warning in report.warnings() {
            if !self.warned.contains(warning) {
                warn(warning);
                self.warned.push(warning.clone());
            }
        }
    }

    fn look(&mut self, job: &[u8], devices: &Devices<'_>, memory_bytes: u64) -> Result<Report, VmError> {
        let failed = |source| VmError::setup("opening the image once more for reading", source);
        let files = devices.files().iter().map(|device| open_again_for_reading(device.file));
        let files = files.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        let files: Vec<DeviceFile<'_>> = files.iter().map(|file| DeviceFile::new(file, false)).collect();
        let jail = Jail { purpose: Purpose::Looking, must_be_whole: self.jail_must_be_whole, ..Jail::default() };
        let platform = open_once(&mut self.platform, self.runner)?;
        let program = program(operation::INFO)?;
        let session = Session { memory_bytes, ..Session::new(platform, program, &files, job) };
        let spare = self.spare.take().transpose()?.filter(|spare| spare.fits(&session));
        let (coming, next) = (&mut self.coming, &mut self.spare);
        // Whatever is expected after a look has a second image.
        let has_second = coming.is_expected() && platform.kind() == Runner::Kvm;
        let meanwhile = || {
            if has_second {
                *next = Some(Spare::make(platform, program, memory_bytes));
            }
            coming.get_ready(platform);
        };
        let found = match spare {
            Some(spare) => spare.run(&session, jail, meanwhile),
            None => apart::run(session, jail, meanwhile),
        };
        let ((report, effort), leaving) = found?;
        self.leaving.push(leaving);
        self.efforts.push((operation::INFO, effort));
        Ok(report)
    }
}

/// Machines that pack and unpack, for a job that writes, if its files are so long that this can take longer than making them.
fn codec_machines_for(platform: &Platform, devices: &Devices<'_>) -> Vec<Prepared> {
    let files = devices.files();
    let length = |file: &DeviceFile<'_>| file.file.metadata().map_or(0, |status| status.len());
    let sum = files.iter().fold(0, |sum: u64, file| sum.saturating_add(length(file)));
    if sum >= CODEC_MACHINES_FROM_BYTES { prepare_codec_machines(platform) } else { Vec::new() }
}

fn program(job_operation: u32) -> Result<GuestProgram<'static>, VmError> {
    GuestProgram::embedded(job_operation).ok_or(VmError::Program("does not exist"))
}

fn open_once(platform: &mut Option<Platform>, runner: Runner) -> Result<&Platform, VmError> {
    Ok(match platform {
        Some(platform) => platform,
        none => {
            jail::prepare(runner);
            none.insert(Platform::open(runner)?)
        }
    })
}

impl Sandbox for LocalSandbox {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &Devices<'_>,
        job: &[u8],
        memory_bytes: u64,
        progress: Option<OnProgress<'_>>,
    ) -> Result<Answer, VmError> {
        if job_operation == operation::INFO {
            let report = self.look(job, devices, memory_bytes)?;
            self.warn(&report);
            return Ok(Answer::from(report));
        }
        let stage = Stage::new(job_operation, devices, job, false);
        let mut answers = self.run_all(&[stage], memory_bytes, progress.unwrap_or(&mut |_, _| ()), &mut |_, _| true)?;
        answers.pop().ok_or_else(|| VmError::Config("there is nothing to run".to_owned()))
    }

    fn run_all(
        &mut self,
        stages: &[Stage<'_>],
        memory_bytes: u64,
        progress: OnProgress<'_>,
        goes_on: &mut dyn FnMut(usize, &Answer) -> bool,
    ) -> Result<Vec<Answer>, VmError> {
        self.leaving.extend(self.spare.take().and_then(|spare| spare.ok()?.dismiss()));
        let purpose = stages.first().map_or_else(Purpose::default, |stage| stage.devices.purpose());
        let jail = Jail { purpose, must_be_whole: self.jail_must_be_whole, ..Jail::default() };
        let platform = open_once(&mut self.platform, self.runner)?;
        // Of several stages one writes what the others verify.
        let writes = |stage: &&Stage<'_>| stage.devices.files().iter().any(|file| file.writable);
        let mut writer = stages.iter().position(|stage| writes(&stage));
        // All stages tell the same listener.
        let progress = RefCell::new(progress);
        let mut relays: Vec<_> = stages.iter().map(|_| |done, total| (*progress.borrow_mut())(done, total)).collect();
        let sessions = (0..).zip(stages).zip(&mut relays).map(|((index, stage), relay)| {
            let codec_machines = match writer.take_if(|writer| *writer == index) {
                Some(_) => codec_machines_for(platform, stage.devices),
                None => Vec::new(),
            };
            Ok(Session {
                memory_bytes,
                prepared: self.coming.take()?,
                codec_machines,
                has_ciphers: stage.has_ciphers,
                bytes_per_second: stage.devices.bytes_per_second(),
                progress: Some(relay),
                ..Session::new(platform, program(stage.operation)?, stage.devices.files(), stage.job)
            })
        });
        let sessions = sessions.collect::<Result<Vec<_>, VmError>>()?;
        let mut goes_on = |index, report: &Report| goes_on(index, &Answer::from(report.clone()));
        let done = apart::confined(sessions, jail, &mut goes_on)?;
        let (reports, efforts): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        reports.iter().for_each(|report| self.warn(report));
        self.efforts.extend(stages.iter().map(|stage| stage.operation).zip(efforts));
        Ok(reports.into_iter().map(Answer::from).collect())
    }

    fn run_apart(&mut self, stage: Stage<'_>, memory_bytes: u64) -> Result<Option<Answer>, VmError> {
        if self.runner == Runner::Process {
            // A guest's process is made before there is an open image, by the one process that can hold it.
            return Ok(None);
        }
        let purpose = stage.devices.purpose();
        let jail = Jail { purpose, must_be_whole: self.jail_must_be_whole, ..Jail::default() };
        let platform = open_once(&mut self.platform, self.runner)?;
        let session = Session {
            memory_bytes,
            has_ciphers: stage.has_ciphers,
            ..Session::new(platform, program(stage.operation)?, stage.devices.files(), stage.job)
        };
        let ((report, effort), leaving) = apart::run(session, jail, || ())?;
        self.leaving.push(leaving);
        self.efforts.push((stage.operation, effort));
        self.warn(&report);
        Ok(Some(Answer::from(report)))
    }

    fn efforts(&self) -> &[Run] {
        &self.efforts
    }

    fn rehearse(
        &mut self,
        job_operation: u32,
        devices: &Devices<'_>,
        job: &[u8],
        memory_bytes: u64,
    ) -> Result<Rehearsed, VmError> {
        let reading = |source| VmError::setup("opening the image once more for reading", source);
        let files = devices.files().iter().map(|device| open_again_for_reading(device.file));
        let files = files.collect::<std::io::Result<Vec<_>>>().map_err(reading)?;
        let making =
            |source| VmError::setup("making a scratch file in the directory for temporary files (TMPDIR)", source);
        let scratch = devices.files().iter().map(|device| device.writable.then(tempfile::tempfile).transpose());
        let scratch = scratch.collect::<std::io::Result<Vec<_>>>().map_err(making)?;
        let devices_of_job = devices.files().iter().zip(&files).zip(&scratch);
        let files: Vec<DeviceFile<'_>> = devices_of_job
            .map(|((device, file), scratch)| DeviceFile {
                scratch: scratch.as_ref(),
                ..DeviceFile::new(file, device.writable)
            })
            .collect();
        let jail = Jail { purpose: Purpose::Rehearsing, must_be_whole: self.jail_must_be_whole, ..Jail::default() };
        let platform = open_once(&mut self.platform, self.runner)?;
        let session = Session {
            memory_bytes,
            has_ciphers: devices.has_secrets(),
            ..Session::new(platform, program(job_operation)?, &files, job)
        };
        let ((report, effort), effects, leaving) = apart::rehearse(session, jail)?;
        self.efforts.push((job_operation, effort));
        self.leaving.push(leaving);
        self.warn(&report);
        Ok(Rehearsed { answer: Answer::from(report), effects })
    }

    fn let_go(&mut self) {
        self.coming = Coming::Unknown;
        self.spare = None;
        self.leaving.clear();
    }

    fn expect(&mut self, operation: u32) {
        self.coming = GuestProgram::embedded(operation).map_or(Coming::Unknown, Coming::Expected);
        // A process starts as a copy of this one, which has no image open yet.
        if let (Runner::Process, Ok(platform)) = (self.runner, open_once(&mut self.platform, self.runner)) {
            self.coming.get_ready(platform);
        }
    }

    fn run_on(&mut self, runner: Runner) {
        if runner != self.runner {
            (self.platform, self.spare) = (None, None);
        }
        self.runner = runner;
    }

    fn require_jail(&mut self) {
        self.jail_must_be_whole = true;
    }
}

/// Something else in the sandbox's place. Its report is as hostile as the sandbox's.
pub(super) struct StandIn<'a>(pub(super) &'a mut dyn Guest);

impl Sandbox for StandIn<'_> {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &Devices<'_>,
        job: &[u8],
        _memory_bytes: u64,
        progress: Option<OnProgress<'_>>,
    ) -> Result<Answer, VmError> {
        let program = program(job_operation)?;
        let mut nobody = |_, _| {};
        let area = self.0.run(job_operation, devices.files(), job, progress.unwrap_or(&mut nobody))?;
        Report::in_area(&area, program).map(Answer::from)
    }

    fn run_apart(&mut self, stage: Stage<'_>, memory_bytes: u64) -> Result<Option<Answer>, VmError> {
        self.run(stage.operation, stage.devices, stage.job, memory_bytes, None).map(Some)
    }
}
