//! Runs a session in a jailed process of its own, and brings the report back.
//!
//! That process has the session's files and no others, and ends with the session. Its words are as hostile as the guest's.

use std::error::Error;
use std::os::fd::{AsRawFd, RawFd};

use instar_abi::wire::Wire;

use crate::devices::Effects;
use crate::jail::Jail;
use crate::jail::worker::{self, Leaving, WorkerError};
use crate::session::{DeviceFile, GuestProgram, Report, Session};
use crate::text::Printable;
use crate::vm::{Prepared, VmError};

/// What an answer starts with.
const REPORT: u8 = 0;
const UNAVAILABLE: u8 = 1;
const TOLD: u8 = 2;

/// Runs a session apart from the calling process, in a jail. `meanwhile` is done here until its report comes.
///
/// # Errors
/// As [`Session::run`], in words; a worker process that could not be started or ended without an answer.
pub fn run<'a>(session: Session<'a>, jail: Jail<'a>, meanwhile: impl FnOnce()) -> Result<(Report, Leaving), VmError> {
    let program = session.program;
    let (answer, leaving) = in_worker(|| encode(within(session, jail, &[libc::STDOUT_FILENO])), meanwhile)?;
    Ok((decode(&answer, program)?, leaving))
}

/// Rehearses a session apart from the calling process, in a jail, and tells what would become of each device's file.
///
/// # Errors
/// As [`run`].
pub fn rehearse<'a>(session: Session<'a>, jail: Jail<'a>) -> Result<(Report, Vec<Effects>, Leaving), VmError> {
    let program = session.program;
    let effects_bytes = session.devices.len() * Effects::SIZE_BYTES;
    let work = || {
        let result = within(session, jail, &[libc::STDOUT_FILENO]);
        let mut answer = vec![0; effects_bytes];
        let effects = result.iter().flat_map(Report::effects);
        answer.chunks_exact_mut(Effects::SIZE_BYTES).zip(effects).for_each(|(bytes, effects)| effects.put(bytes));
        answer.extend(encode(result));
        answer
    };
    let (answer, leaving) = in_worker(work, || ())?;
    let (effects, report) = answer.split_at_checked(effects_bytes).unwrap_or_default();
    let effects = effects.chunks_exact(Effects::SIZE_BYTES).map(Effects::get).collect();
    Ok((decode(report, program)?, effects, leaving))
}

fn in_worker(work: impl FnOnce() -> Vec<u8>, meanwhile: impl FnOnce()) -> Result<(Vec<u8>, Leaving), VmError> {
    worker::run(work, meanwhile).map_err(|error| match error {
        WorkerError::Start(source) => VmError::setup("starting a worker process", source),
        ended @ WorkerError::Ended(_) => VmError::Exit(ended.to_string()),
    })
}

fn decode(answer: &[u8], program: GuestProgram<'_>) -> Result<Report, VmError> {
    let words = |bytes: &[u8]| Printable(bytes).to_string();
    match answer.split_first() {
        Some((&REPORT, area)) => Report::in_area(area, program),
        Some((&UNAVAILABLE, sentence)) => Err(VmError::Unavailable(words(sentence))),
        Some((&TOLD, sentence)) => Err(VmError::Told(words(sentence))),
        _ => Err(VmError::Exit("its worker process answered nonsense".to_owned())),
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
        Err(error) => {
            let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
            (TOLD, format!("{error}{source}").into_bytes())
        }
    };
    [&[kind], &bytes[..]].concat()
}
