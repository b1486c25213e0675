//! The seam to the sandbox: a job goes in, an answer comes out, and what the answer says becomes the host's own terms.

use instar_abi::report::{MAX_TEXT_BYTES, ReportHeader, error_kind, outcome};

use super::job::Devices;
use super::stage::Stage;
use super::stats::Run;
use crate::code::Code;
use crate::devices::Effects;
use crate::files::chain::Layer;
use crate::files::{Cause, OpenError, system_text};
use crate::jail::Runner;
use crate::session::Report;
use crate::vm::VmError;

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

    /// Runs a job on its files in a process of its own, after which this process can go on to open others; `None` if that
    /// is not to be had, and nothing has been done.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    fn run_apart(&mut self, _stage: Stage<'_>, _memory_bytes: u64) -> Result<Option<Answer>, VmError> {
        Ok(None)
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

    /// Waits until nothing that was started for jobs so far is left, so that nobody holds a file any more when this process
    /// ends without dropping anything.
    fn let_go(&mut self) {}

    /// Says which job will come after those that look at images.
    fn expect(&mut self, _operation: u32) {}

    /// From now on guests run on this.
    fn run_on(&mut self, _runner: Runner) {}

    /// From now on nothing runs where a layer of the jail is missing.
    fn require_jail(&mut self) {}
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
