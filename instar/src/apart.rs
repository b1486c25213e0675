//! Runs a session in a jailed process of its own, and brings the report back.
//!
//! That process has the session's files and no others, and ends with the session. Its words are as hostile as the guest's.

use std::error::Error;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::code::Code;
use crate::jail::Jail;
use crate::jail::worker::{self, Leaving, WorkerError};
use crate::session::{DeviceFile, Report, Session};
use crate::text::Printable;
use crate::vm::{Prepared, VmError};

/// Set in a worker process.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this is a worker process: it has no standard error, and must not write to one.
#[must_use]
pub fn is_worker() -> bool {
    IS_WORKER.load(Ordering::Relaxed)
}

/// What an answer starts with.
const REPORT: u8 = 0;
const UNAVAILABLE: u8 = 1;
const JAIL: u8 = 2;
/// Other failures, by their code.
const TOLD: [(u8, Code); 3] = [(3, Code::Sandbox), (4, Code::GuestFault), (5, Code::GuestStuck)];

/// Runs a session apart from the calling process, in a jail. `meanwhile` is done here until its report comes.
///
/// # Errors
/// As [`Session::run`], in words; a worker process that could not be started or ended without an answer.
pub fn run<'a>(session: Session<'a>, jail: Jail<'a>, meanwhile: impl FnOnce()) -> Result<(Report, Leaving), VmError> {
    let program = session.program;
    let work = || {
        IS_WORKER.store(true, Ordering::Relaxed);
        encode(within(session, jail, &[libc::STDOUT_FILENO]))
    };
    let (answer, leaving) = worker::run(work, meanwhile).map_err(|error| match error {
        WorkerError::Start(source) => VmError::setup("starting a worker process", source),
        ended @ WorkerError::Ended(_) => VmError::Exit(ended.to_string()),
    })?;
    let words = |bytes: &[u8]| Printable(bytes).to_string();
    match answer.split_first() {
        Some((&REPORT, area)) => Report::in_area(area, program).map(|report| (report, leaving)),
        Some((&UNAVAILABLE, sentence)) => Err(VmError::Unavailable(words(sentence))),
        Some((&JAIL, sentence)) => Err(VmError::Jail(words(sentence))),
        Some((kind, sentence)) => match TOLD.iter().find(|(told, _)| told == kind) {
            Some((_, code)) => Err(VmError::Told { code: *code, sentence: words(sentence) }),
            None => Err(VmError::Exit("its worker process answered nonsense".to_owned())),
        },
        None => Err(VmError::Exit("its worker process answered nothing".to_owned())),
    }
}

/// Runs a session in the calling process, which is jailed for the rest of its life.
///
/// # Errors
/// As [`Session::run`]; a layer of the jail that is missing where none may be.
pub fn confined<'a>(session: Session<'a>, jail: Jail<'a>) -> Result<Report, VmError> {
    within(session, jail, &[libc::STDOUT_FILENO, libc::STDERR_FILENO])
}

/// `keeps` are the descriptors that stay besides the session's own.
fn within<'a>(session: Session<'a>, jail: Jail<'a>, keeps: &[RawFd]) -> Result<Report, VmError> {
    let used = session
        .devices
        .iter()
        .flat_map(DeviceFile::descriptors)
        .map(AsRawFd::as_raw_fd)
        .chain([session.hypervisor.as_raw_fd()])
        .chain(session.prepared.iter().flat_map(Prepared::descriptors));
    jail.leave_behind(used.chain(keeps.iter().copied()).collect());
    Session { jail: Some(jail), ..session }.run()
}

fn encode(result: Result<Report, VmError>) -> Vec<u8> {
    let (kind, bytes) = match result {
        Ok(report) => (REPORT, report.area()),
        Err(VmError::Unavailable(sentence)) => (UNAVAILABLE, sentence.into_bytes()),
        Err(VmError::Jail(sentence)) => (JAIL, sentence.into_bytes()),
        Err(error) => {
            let kind = TOLD.iter().find(|(_, code)| *code == error.code()).map_or(TOLD[0].0, |(kind, _)| *kind);
            let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
            (kind, format!("{error}{source}").into_bytes())
        }
    };
    [&[kind], &bytes[..]].concat()
}
