//! Runs a session in a jailed process of its own, and brings the report back.
//!
//! That process has the session's files and no others, and ends with the session. Its words are as hostile as the guest's.

use std::error::Error;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use instar_abi::wire::Wire;

use crate::code::Code;
use crate::devices::Effects;
use crate::effort::Effort;
use crate::jail::Jail;
use crate::jail::spare;
use crate::jail::worker::{self, Leaving, WorkerError};
use crate::program::GuestProgram;
use crate::series;
use crate::session::{DeviceFile, Report, Session};
use crate::text::Printable;
use crate::vm::{Platform, Prepared, VmError};

/// A report, and what it took.
pub type Counted = (Report, Effort);
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
/// Stands between the warnings, each on its line, and the report's bytes.
const END_OF_WARNINGS: u8 = 0;
/// More warnings than there are layers, around the host's process and around the guest's, are none.
const WARNINGS_MAX: usize = 6;

/// Runs a session apart from the calling process, in a jail. `meanwhile` is done here until its report comes.
///
/// # Errors
/// As [`Session::run`], in words; a worker process that could not be started or ended without an answer.
pub fn run<'a>(session: Session<'a>, jail: Jail<'a>, meanwhile: impl FnOnce()) -> Result<(Counted, Leaving), VmError> {
    let program = session.program;
    let (answer, leaving) = in_worker(|| encode(alone(session, jail)), meanwhile)?;
    Ok((decode(&answer, program)?, leaving))
}

/// Rehearses a session apart from the calling process, in a jail, and tells what would become of each device's file.
///
/// # Errors
/// As [`run`].
pub fn rehearse<'a>(session: Session<'a>, jail: Jail<'a>) -> Result<(Counted, Vec<Effects>, Leaving), VmError> {
    let program = session.program;
    let effects_bytes = session.devices.len() * Effects::SIZE_BYTES;
    let work = || {
        let result = alone(session, jail);
        let mut answer = vec![0; effects_bytes];
        let effects = result.iter().flat_map(|(report, _)| report.effects());
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
    let work = || {
        IS_WORKER.store(true, Ordering::Relaxed);
        work()
    };
    worker::run(work, meanwhile).map_err(not_answered)
}

fn not_answered(error: WorkerError) -> VmError {
    match error {
        WorkerError::Start(source) => VmError::setup("starting a worker process", source),
        ended @ WorkerError::Ended(_) => VmError::Exit(ended.to_string()),
    }
}

/// A process that has a machine and waits for a file to look at: it gets ready while another one works, so that nobody has to wait
/// for it.
#[derive(Debug)]
pub struct Spare {
    process: spare::Spare,
    program: GuestProgram<'static>,
    memory_bytes: u64,
}

impl Spare {
    /// Makes one.
    ///
    /// # Errors
    /// If there can be no process, or no way to it.
    pub fn make(platform: &Platform, program: GuestProgram<'static>, memory_bytes: u64) -> Result<Self, VmError> {
        let work = |orders: spare::Orders| {
            IS_WORKER.store(true, Ordering::Relaxed);
            // Nothing that the parent has open is for this process, least of all the locks of images.
            let used = [libc::STDOUT_FILENO, orders.descriptor()].into_iter().chain(platform.descriptor());
            Jail::default().leave_behind(used.collect());
            let prepared = program.prepare(platform, memory_bytes);
            let prepared = prepared.and_then(|machine| program.warm_up(machine, platform));
            let (order, file) = orders.wait()?;
            let (must_be_whole, job) = order.split_first()?;
            let jail = Jail { must_be_whole: *must_be_whole != 0, ..Jail::default() };
            let devices = [DeviceFile::new(&file, false)];
            let session = |prepared| Session {
                memory_bytes,
                prepared: Some(prepared),
                ..Session::new(platform, program, &devices, job)
            };
            Some(encode(prepared.and_then(|prepared| alone(session(prepared), jail))))
        };
        let process = spare::Spare::make(work).map_err(|error| not_answered(WorkerError::Start(error)))?;
        Ok(Self { process, program, memory_bytes })
    }

    /// Whether it can run this session.
    #[must_use]
    pub fn fits(&self, session: &Session<'_>) -> bool {
        session.memory_bytes == self.memory_bytes && session.devices.len() == 1
    }

    /// Has it look at the one file of a session that it [fits](Self::fits), as [`run`] would. `meanwhile` is done here until its
    /// report comes.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(
        self,
        session: &Session<'_>,
        jail: Jail<'_>,
        meanwhile: impl FnOnce(),
    ) -> Result<(Counted, Leaving), VmError> {
        let [device] = session.devices else { return Err(VmError::Config("this takes one file".to_owned())) };
        let order = [&[u8::from(jail.must_be_whole)], session.job].concat();
        let (answer, leaving) = self.process.give(&order, device.file, meanwhile).map_err(not_answered)?;
        Ok((decode(&answer, self.program)?, leaving))
    }

    /// Ends it without waiting for that.
    pub fn dismiss(self) -> Option<Leaving> {
        self.process.dismiss()
    }
}

fn decode(answer: &[u8], program: GuestProgram<'_>) -> Result<Counted, VmError> {
    let words = |bytes: &[u8]| Printable(bytes).to_string();
    match answer.split_first() {
        Some((&REPORT, rest)) => {
            let (effort, rest) = rest.split_at_checked(Effort::SIZE_BYTES).unwrap_or_default();
            let effort = Effort::from_bytes(effort).unwrap_or_default();
            let (warnings, area) = split_warnings(rest);
            Ok((Report::in_area(area, program)?.with_warnings(warnings), effort))
        }
        Some((&UNAVAILABLE, sentence)) => Err(VmError::Unavailable(words(sentence))),
        Some((&JAIL, sentence)) => Err(VmError::Jail(words(sentence))),
        Some((kind, sentence)) => match TOLD.iter().find(|(told, _)| told == kind) {
            Some((_, code)) => Err(VmError::Told { code: *code, sentence: words(sentence) }),
            None => Err(VmError::Exit("its worker process answered nonsense".to_owned())),
        },
        None => Err(VmError::Exit("its worker process answered nothing".to_owned())),
    }
}

/// Runs sessions on the same files in the calling process, which is jailed for the rest of its life. `goes_on` is that of
/// [`series::run`].
///
/// # Errors
/// As [`series::run`]; a layer of the jail that is missing where none may be.
pub fn confined<'a>(
    sessions: Vec<Session<'a>>,
    jail: Jail<'a>,
    goes_on: &mut dyn FnMut(usize, &Report) -> bool,
) -> Result<Vec<Counted>, VmError> {
    within(sessions, jail, &[libc::STDOUT_FILENO, libc::STDERR_FILENO], goes_on)
}

fn alone<'a>(session: Session<'a>, jail: Jail<'a>) -> Result<Counted, VmError> {
    let mut runs = within(vec![session], jail, &[libc::STDOUT_FILENO], &mut |_, _| true)?;
    runs.pop().ok_or_else(|| VmError::Config("there is nothing to run".to_owned()))
}

/// `keeps` are the descriptors that stay besides the sessions' own.
fn within<'a>(
    sessions: Vec<Session<'a>>,
    jail: Jail<'a>,
    keeps: &[RawFd],
    goes_on: &mut dyn FnMut(usize, &Report) -> bool,
) -> Result<Vec<Counted>, VmError> {
    let of_session = |session: &Session<'_>| {
        let files = session.devices.iter().flat_map(DeviceFile::descriptors).map(AsRawFd::as_raw_fd);
        let machine = session.prepared.iter().chain(&session.codec_machines).flat_map(Prepared::descriptors);
        files.chain(session.platform.descriptor()).chain(machine).collect::<Vec<_>>()
    };
    let used = sessions.iter().flat_map(of_session);
    jail.leave_behind(used.chain(keeps.iter().copied()).collect());
    series::run(sessions, Some(jail), goes_on)
}

fn encode(result: Result<Counted, VmError>) -> Vec<u8> {
    let (kind, bytes) = match result {
        Ok((report, effort)) => {
            let lines = report.warnings().join("\n").into_bytes();
            (REPORT, [&effort.to_bytes()[..], &lines, &[END_OF_WARNINGS], &report.area()].concat())
        }
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
