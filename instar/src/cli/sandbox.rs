//! The seam to the sandbox: a job goes in, an answer comes out, and what the answer says becomes the host's own terms.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::Instant;

use instar_abi::job::operation;
use instar_abi::memory::DEFAULT_MEMORY_BYTES;
use instar_abi::report::{InfoReport, MAX_TEXT_BYTES, ReportHeader, error_kind, info_flag, outcome};
use instar_abi::wire::Wire;
use tracing::info;

use super::info::{BadReport, ImageInfo};
use super::job::Devices;
use super::output::complain;
use super::stage::Stage;
use super::stats::Run;
use crate::apart;
use crate::code::Code;
use crate::devices::Effects;
use crate::files::chain::{Finding, Inspect, Layer, Summary};
use crate::files::{Cause, ImageFile, OpenError, driver, open_again_for_reading, system_text};
use crate::jail::worker::Leaving;
use crate::jail::{self, Jail, Purpose, Runner};
use crate::session::{DeviceFile, Guest, GuestProgram, Report, Session};
use crate::text::Printable;
use crate::vm::{Platform, Prepared, VmError};

/// What a guest program answered. Hostile, as all that comes from there.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Outcome and error.
    pub(super) header: ReportHeader,
    /// The operation's own report.
    pub(super) operation: Vec<u8>,
    /// What stood behind it.
    pub(super) payload: Vec<u8>,
}

/// How a rehearsal ended.
#[derive(Clone, Debug)]
pub(super) struct Rehearsed {
    /// What the guest program answered.
    pub(super) answer: Answer,
    /// What would become of the files, in the order of the devices. As hostile as the answer.
    pub(super) effects: Vec<Effects>,
}

/// An error that a guest program reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    /// One of [`error_kind`].
    pub(super) kind: u32,
    /// The layer that it is about; may be one that does not exist.
    pub(super) layer: usize,
    /// The guest's text, or the system's words for the error number where there is none.
    pub(super) text: Vec<u8>,
    /// The system's error number behind it, or 0.
    pub(super) errno: i32,
}

impl From<Report> for Answer {
    fn from(report: Report) -> Self {
        Self {
            header: report.header().clone(),
            operation: report.operation().to_vec(),
            payload: report.payload().to_vec(),
        }
    }
}

impl Answer {
    /// The error, if the job failed.
    pub(super) fn error(&self) -> Option<Reported> {
        let header = &self.header;
        if header.outcome == outcome::DONE {
            return None;
        }
        let length = usize::try_from(header.text_length_bytes).unwrap_or(MAX_TEXT_BYTES).min(MAX_TEXT_BYTES);
        let mut text = header.text[..length].to_vec();
        let says_only_number = header.error_kind == error_kind::STORAGE || text.is_empty();
        if says_only_number && header.errno != 0 {
            text = system_text(&std::io::Error::from_raw_os_error(header.errno.saturating_abs())).into_bytes();
        }
        let layer = usize::try_from(header.error_layer).unwrap_or(usize::MAX);
        Some(Reported { kind: header.error_kind, layer, text, errno: header.errno })
    }
}

impl Reported {
    /// What kind of failure it is. `job` is that of a job that failed for no reason the system has a number for.
    pub(super) fn code(&self, job: Code) -> Code {
        match self.kind {
            error_kind::OPEN => Code::of_errno(self.errno, Code::InvalidImage),
            error_kind::CORRUPT => Code::CorruptImage,
            error_kind::UNSUPPORTED => Code::UnsupportedFormat,
            error_kind::REFUSED => Code::Refused,
            error_kind::JOB | error_kind::STORAGE => Code::of_errno(self.errno, job),
            _ => Code::GuestFault,
        }
    }

    /// The error of opening the first of these layers, on which the others lie; a layer that does not exist
    /// stands for the first.
    pub(super) fn into_open_error(self, layers: &[Layer]) -> OpenError {
        let backing_depth = if self.layer < layers.len() { self.layer } else { 0 };
        let name = |depth: usize| layers[depth].image.name();
        OpenError { image: name(0).to_vec(), backing_depth, cause: self.into_cause(name(backing_depth)) }
    }

    /// The cause, for an image that cannot be opened and is shown under this name.
    pub(super) fn into_cause(self, name: &[u8]) -> Cause {
        Cause::Image { code: self.code(Code::Io), name: name.to_vec(), text: self.text }
    }

    /// A guest that gave up on its own account.
    pub(super) fn into_stop(self) -> VmError {
        VmError::Panic(String::from_utf8_lossy(&self.text).into_owned())
    }
}

/// Told about bytes done and bytes in total.
pub(super) type OnProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// Runs jobs.
pub(super) trait Sandbox {
    /// Runs one job to its end.
    ///
    /// # Errors
    /// Every way to end without an answer.
    fn run(
        &mut self,
        job_operation: u32,
        devices: &Devices<'_>,
        job: &[u8],
        memory_bytes: u64,
        progress: Option<OnProgress<'_>>,
    ) -> Result<Answer, VmError>;

    /// Runs several jobs on the same files, one after the other, until `goes_on` says no to an answer, counted from 0.
    ///
    /// # Errors
    /// Every way in which one of them ends without an answer.
    fn run_all(
        &mut self,
        stages: &[Stage<'_>],
        memory_bytes: u64,
        progress: OnProgress<'_>,
        goes_on: &mut dyn FnMut(usize, &Answer) -> bool,
    ) -> Result<Vec<Answer>, VmError> {
        let mut answers = Vec::with_capacity(stages.len());
        for (index, stage) in stages.iter().enumerate() {
            let answer = self.run(stage.operation, stage.devices, stage.job, memory_bytes, Some(&mut *progress))?;
            let goes_on = goes_on(index, &answer);
            answers.push(answer);
            if !goes_on {
                break;
            }
        }
        Ok(answers)
    }

    /// What every run so far took, in their order; empty where nobody counts.
    fn efforts(&self) -> &[Run] {
        &[]
    }

    /// Rehearses a job: every file stays as it is, and what would be done to it is told.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    fn rehearse(
        &mut self,
        _job_operation: u32,
        _devices: &Devices<'_>,
        _job: &[u8],
        _memory_bytes: u64,
    ) -> Result<Rehearsed, VmError> {
        Err(VmError::Config("a rehearsal needs the virtual machine".to_owned()))
    }

    /// Says which job will come after those that look at images.
    fn expect(&mut self, _operation: u32) {}

    /// From now on guests run on this.
    fn run_on(&mut self, _runner: Runner) {}

    /// From now on nothing runs where a layer of the jail is missing.
    fn require_jail(&mut self) {}
}

/// The sandbox on this machine, which is opened when the first job comes.
///
/// An image is looked at in a worker process that has nothing but that image, read-only, and no lock of it; several can come
/// one after the other, and the files that they lead to are opened between them. The job that writes is the last of a command
/// and has all files open: it runs in this process, which is jailed from then on, and so do those that verify it, each with a
/// machine of its own that was made before. So nobody is left that could still write when this process is killed.
#[derive(Default)]
pub(super) struct LocalSandbox {
    runner: Runner,
    platform: Option<Platform>,
    /// The job that will come last, until a machine is prepared for it.
    expected: Option<u32>,
    /// A machine for the job that will come last, made while the first image was looked at.
    prepared: Option<Prepared>,
    jail_must_be_whole: bool,
    leaving: Vec<Leaving>,
    /// What has been said of a jail that is not whole; one command says it once.
    warned: Vec<String>,
    efforts: Vec<Run>,
}

impl LocalSandbox {
    /// Tells which layers of the jail did not hold while a report was made.
    fn warn(&mut self, report: &Report) {
        for warning in report.warnings() {
            if !self.warned.contains(warning) {
                complain(&format!("instar: warning: {warning}"));
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
        let session = Session { memory_bytes, ..Session::new(platform, program(operation::INFO)?, &files, job) };
        let (expected, prepared) = (self.expected.take(), &mut self.prepared);
        let prepare_expected = || *prepared = prepared.take().or(prepare(platform, expected));
        let ((report, effort), leaving) = apart::run(session, jail, prepare_expected)?;
        self.leaving.push(leaving);
        self.efforts.push((operation::INFO, effort));
        Ok(report)
    }
}

/// Makes a machine for an operation that is expected. What fails here fails again, and is told, when the machine is needed.
fn prepare(platform: &Platform, expected: Option<u32>) -> Option<Prepared> {
    expected.and_then(GuestProgram::embedded)?.prepare(platform, DEFAULT_MEMORY_BYTES).ok()
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
        let purpose = stages.first().map_or_else(Purpose::default, |stage| stage.devices.purpose());
        let jail = Jail { purpose, must_be_whole: self.jail_must_be_whole, ..Jail::default() };
        let platform = open_once(&mut self.platform, self.runner)?;
        // All stages tell the same listener.
        let progress = RefCell::new(progress);
        let mut relays: Vec<_> = stages.iter().map(|_| |done, total| (*progress.borrow_mut())(done, total)).collect();
        let sessions = stages.iter().zip(&mut relays).map(|(stage, relay)| {
            Ok(Session {
                memory_bytes,
                prepared: self.prepared.take(),
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

    fn expect(&mut self, operation: u32) {
        self.expected = Some(operation);
        // A process starts as a copy of this one, which has no image open yet.
        if let (Runner::Process, Ok(platform)) = (self.runner, open_once(&mut self.platform, self.runner)) {
            self.prepared = prepare(platform, self.expected.take());
        }
    }

    fn run_on(&mut self, runner: Runner) {
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
}

/// Inspects images by running the info program on each.
pub(super) struct Inspector<'a, S>(pub(super) &'a mut S);

impl<S: Sandbox> Inspect for Inspector<'_, S> {
    type Error = VmError;

    fn inspect(&mut self, image: &ImageFile, format: u32) -> Result<Summary, Finding<VmError>> {
        self.inspect_extents(image, &[], format)
    }

    fn inspect_extents(
        &mut self,
        image: &ImageFile,
        extents: &[ImageFile],
        format: u32,
    ) -> Result<Summary, Finding<VmError>> {
        let start = Instant::now();
        let devices = Devices::single(image, extents, format);
        let job = devices.job(operation::INFO, &[0u8; 0]);
        let answer =
            self.0.run(operation::INFO, &devices, &job, DEFAULT_MEMORY_BYTES, None).map_err(Finding::Sandbox)?;
        match answer.error() {
            None => summary(answer)
                .inspect(|summary| tell(image, summary, start))
                .map_err(|error| Finding::Sandbox(VmError::Report(error.to_string()))),
            Some(error) if error.kind == error_kind::INTERNAL => Err(Finding::Sandbox(error.into_stop())),
            Some(error) => Err(Finding::Image(error.into_cause(image.name()))),
        }
    }
}

/// Tells those who follow the log what an image is.
fn tell(image: &ImageFile, summary: &Summary, start: Instant) {
    let name = driver::name(summary.format).unwrap_or("unknown");
    let backing = summary.backing_name.as_deref().map(Printable);
    let backing = backing.as_ref().map_or(&"none" as &dyn Display, |name| name);
    let (virtual_size_bytes, took) = (summary.virtual_size_bytes, start.elapsed());
    info!(file = %Printable(image.name()), format = name, virtual_size_bytes, %backing, ?took, "looked at");
}

fn summary(answer: Answer) -> Result<Summary, BadReport> {
    let info = ImageInfo::decode(&answer.operation, &answer.payload)?;
    let report = InfoReport::get(&answer.operation);
    let has_data_file_name = report.flags & info_flag::HAS_DATA_FILE_NAME != 0;
    let name_length = usize::try_from(report.data_file_name_length_bytes).unwrap_or(usize::MAX);
    let data_file_name = report.data_file_name.get(..name_length).filter(|_| has_data_file_name);
    Ok(Summary {
        extent_names: info.vmdk.map_or_else(Vec::new, |vmdk| vmdk.files().into_iter().map(<[u8]>::to_vec).collect()),
        format: info.format,
        flags: report.flags,
        virtual_size_bytes: info.virtual_size_bytes,
        l1_entries: info.l1_entries,
        data_file_name: data_file_name.map(<[u8]>::to_vec),
        backing_name: info.backing_name.filter(|name| !name.is_empty()),
        backing_format: info.backing_format,
        report: answer.operation,
        payload: answer.payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_numbers_of_a_report_become_codes() {
        let code = |kind, errno| Reported { kind, layer: 0, text: Vec::new(), errno }.code(Code::JobFailed);
        assert_eq!(code(error_kind::OPEN, 0), Code::InvalidImage);
        assert_eq!(code(error_kind::OPEN, libc::ENOTSUP), Code::UnsupportedFormat);
        assert_eq!(code(error_kind::OPEN, libc::EKEYREJECTED), Code::EncryptionKey);
        assert_eq!(code(error_kind::CORRUPT, libc::ENOSPC), Code::CorruptImage);
        assert_eq!(code(error_kind::JOB, libc::ENOSPC), Code::NoSpace);
        assert_eq!(code(error_kind::STORAGE, libc::EIO), Code::Io);
        assert_eq!(code(error_kind::STORAGE, 0), Code::JobFailed);
        assert_eq!(code(error_kind::INTERNAL, libc::ENOSPC), Code::GuestFault);
        assert_eq!(code(77, -1), Code::GuestFault);
    }
}
