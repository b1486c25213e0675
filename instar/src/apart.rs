//! Runs a session in a jailed process of its own, and brings the report back.
//!
//! That process has the session's files and no others, and ends with the session. Its words are as hostile as the guest's.

use std::error::Error;
use std::os::fd::{AsRawFd, RawFd};

use crate::jail::Jail;
use crate::jail::worker::{self, Leaving, WorkerError};
use crate::session::{DeviceFile, Report, Session};
use crate::text::Printable;
use crate::vm::{Prepared, VmError};

/// What an answer starts with.
const REPORT: u8 = 0;
const UNAVAILABLE: u8 = 1;
const TOLD: u8 = 2;
/// Stands between the warnings, each on its line, and the report's bytes.
const END_OF_WARNINGS: u8 = 0;
/// More warnings than there are layers, around the host's process and around the guest's, are none.
const WARNINGS_MAX: usize = 6;

/// Runs a session apart from the calling process, in a jail. `meanwhile` is done here until its report comes.
///
/// # Errors
/// As [`Session::run`], in words; a worker process that could not be started or ended without an answer.
pub fn run<'a>(session: Session<'a>, jail: Jail<'a>, meanwhile: impl FnOnce()) -> Result<(Report, Leaving), VmError> {
    let program = session.program;
    let (answer, leaving) = worker::run(|| encode(within(session, jail, &[libc::STDOUT_FILENO])), meanwhile).map_err(
        |error| match error {
            WorkerError::Start(source) => VmError::setup("starting a worker process", source),
            ended @ WorkerError::Ended(_) => VmError::Exit(ended.to_string()),
        },
    )?;
    let words = |bytes: &[u8]| Printable(bytes).to_string();
    match answer.split_first() {
        Some((&REPORT, rest)) => {
            let (warnings, area) = split_warnings(rest);
            Ok((Report::in_area(area, program)?.with_warnings(warnings), leaving))
        }
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
        .chain(session.platform.descriptor())
        .chain(session.prepared.iter().flat_map(Prepared::descriptors));
    jail.leave_behind(used.chain(keeps.iter().copied()).collect());
    Session { jail: Some(jail), ..session }.run()
}

fn encode(result: Result<Report, VmError>) -> Vec<u8> {
    let (kind, bytes) = match result {
        Ok(report) => {
            let lines = report.warnings().join("\n").into_bytes();
            (REPORT, [&lines[..], &[END_OF_WARNINGS], &report.area()].concat())
        }
        Err(VmError::Unavailable(sentence)) => (UNAVAILABLE, sentence.into_bytes()),
        Err(error) => {
            let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
            (TOLD, format!("{error}{source}").into_bytes())
        }
    };
    [&[kind], &bytes[..]].concat()
}

fn split_warnings(bytes: &[u8]) -> (Vec<String>, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == END_OF_WARNINGS).unwrap_or(0);
    let (lines, rest) = bytes.split_at(end);
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let warnings = lines.take(WARNINGS_MAX).map(|line| Printable(line).to_string()).collect();
    (warnings, rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_a_worker_are_few_and_harmless() {
        let (warnings, area) = split_warnings(b"one\x1b[2J\n\ntwo\n3\n4\n5\n6\n7\0area");
        assert_eq!(warnings, ["one\\x1b[2J", "two", "3", "4", "5", "6"]);
        assert_eq!(area, b"area");
        assert_eq!(split_warnings(b"\0area"), (Vec::new(), &b"area"[..]));
        assert_eq!(split_warnings(b""), (Vec::new(), &b""[..]));
        assert_eq!(split_warnings(b"no end").0, Vec::<String>::new());
    }
}
