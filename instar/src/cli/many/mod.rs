//! `commit --jobs`: several images, each committed by a process of its own that is forked before a file is opened, because the
//! process that writes an image is jailed for the rest of its life.
//!
//! Each process does what `commit` does for one image. Here is only decided who comes next, and shown what they said, whole.

mod queue;
mod words;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use tracing::info;

use super::arguments::CommitArguments;
use super::commit::{self, COMMAND, Settings};
use super::error::Failure;
use super::meter::{Meter, Unit};
use super::operand;
use super::output::{Channel, Form, is_kept, print};
use super::progress::ProgressWish;
use super::sandbox::Sandbox;
use super::telling::Listener;
use crate::code::Code;
use crate::files::{find_same, system_text};
use crate::jail::crew::{Crew, Ended};
use crate::text::Printable;

use queue::{Next, Queue};

/// The most processes at the same time.
const MAX_JOBS: usize = 256;
/// How the process of an image ends by itself: committed, not committed, and not committed because an image was taken.
const COMMITTED: u8 = 0;
const FAILED: u8 = 1;
const FOUND_TAKEN: u8 = 75;

/// Commits all FILEs and gives the exit status.
///
/// # Errors
/// What is wrong with the command line, before anything has been started. Everything else is told where it happens.
pub(super) fn run(mut each: CommitArguments, jobs: &OsStr, sandbox: &mut impl Sandbox) -> Result<u8, Failure> {
    let most_at_once = parse_jobs(jobs)?;
    let files = std::mem::take(&mut each.image.files);
    let Some(first) = files.first() else {
        return Err(Failure::usage(COMMAND, "Expecting at least one image file name"));
    };
    if is_kept() {
        return Err(Failure::Option("--jobs is not done inside of another program".to_owned()));
    }
    each.image.files = vec![first.clone()];
    let Settings { form, style, .. } = Settings::read(&each)?;
    let listener = Listener::of_command(COMMAND, &each.image, each.output.as_deref())?;
    refuse_same(&files, each.image.image_options)?;
    (each.show_progress, each.progress) = (false, None);
    let mut commits = Commits {
        files: &files,
        form,
        listener,
        meter: Meter::start_counting(Unit::Images, style, ProgressWish::listen()),
        committed: 0,
        failed: 0,
        is_all_shown: true,
    };
    commits.carry_out(each, most_at_once, sandbox);
    Ok(commits.end())
}

fn parse_jobs(jobs: &OsStr) -> Result<usize, Failure> {
    let number = jobs.to_str().and_then(|jobs| jobs.parse().ok()).filter(|number| (1..=MAX_JOBS).contains(number));
    number.ok_or_else(|| {
        let typed = Printable(jobs.as_bytes());
        Failure::Option(format!("--jobs expects a number from 1 to {MAX_JOBS}, not '{typed}'"))
    })
}

/// Refuses two names of one file.
fn refuse_same(files: &[OsString], are_options: bool) -> Result<(), Failure> {
    let paths: Vec<Vec<u8>> = files
        .iter()
        // What cannot be understood fails on its own account.
        .map(|file| operand::read(file.as_bytes(), are_options).map_or(file.as_bytes().to_vec(), |read| read.path))
        .collect();
    let Some((first, second)) = find_same(&paths.iter().map(Vec::as_slice).collect::<Vec<_>>()) else { return Ok(()) };
    let [first, second] = [first, second].map(|place| files[place].as_bytes());
    let text = if first == second {
        format!("'{}' is named twice; nothing was started", Printable(first))
    } else {
        let (first, second) = (Printable(first), Printable(second));
        format!("'{first}' and '{second}' are the same file; nothing was started")
    };
    Err(Failure::Whole { code: Code::Usage, file: second.to_vec(), text })
}

/// Commits one image, in its own process, and gives that process's exit status.
fn commit_one(arguments: &CommitArguments, listener: &Listener, sandbox: &mut impl Sandbox) -> u8 {
    let status = match commit::run(arguments, None, sandbox) {
        Ok(()) => COMMITTED,
        Err(failure) => {
            listener.tell(&failure);
            if failure.code() == Code::ImageInUse { FOUND_TAKEN } else { FAILED }
        }
    };
    sandbox.let_go();
    status
}

/// The images of a command, and what has become of them.
struct Commits<'a> {
    files: &'a [OsString],
    form: Form,
    listener: Listener,
    meter: Meter,
    committed: usize,
    failed: usize,
    is_all_shown: bool,
}

impl Commits<'_> {
    fn carry_out(&mut self, mut each: CommitArguments, most_at_once: usize, sandbox: &mut impl Sandbox) {
        let mut queue = Queue::new(self.files.len(), most_at_once);
        let mut crew = Crew::assemble();
        self.show_progress();
        loop {
            match queue.next() {
                Next::Start(image) => {
                    let file = &self.files[image];
                    each.image.files = vec![file.clone()];
                    let listener = self.listener.about(file);
                    if let Err(error) = crew.start(image, || commit_one(&each, &listener, sandbox)) {
                        queue.end(image, false);
                        let text = format!("No process could be started for it: {}", system_text(&error));
                        self.fail(image, Code::Sandbox, text);
                    }
                }
                Next::Wait => {
                    let Some(ended) = crew.wait() else {
                        // Somebody asks by signal.
                        self.show_progress();
                        continue;
                    };
                    if queue.end(ended.task, ended.status() == Some(FOUND_TAKEN)) {
                        let file = Printable(self.files[ended.task].as_bytes());
                        info!(%file, "an image is in use; it is tried again when all others are done");
                    } else {
                        self.take(ended);
                    }
                }
                Next::Over => return,
            }
        }
    }

    fn show_progress(&mut self) {
        let count = |images: usize| images.try_into().unwrap_or(u64::MAX);
        self.meter.update(count(self.committed + self.failed), count(self.files.len()));
    }

    /// Shows what the process of an image has said, and counts the image.
    fn take(&mut self, ended: Ended) {
        let (image, status, signal, how) = (ended.task, ended.status(), ended.signal(), ended.how());
        self.show(ended);
        match status {
            Some(COMMITTED) => self.count(true),
            Some(FAILED | FOUND_TAKEN) => self.count(false),
            _ => {
                // Its own jail ends a process for a call that it must not make, and then something is wrong with it.
                let code = if signal == Some(libc::SIGSYS) { Code::GuestFault } else { Code::JobFailed };
                let text = format!("The process that commits it {how}; no data is lost, run the same command again");
                self.fail(image, code, text);
            }
        }
    }

    fn show(&mut self, ended: Ended) {
        let file = &self.files[ended.task];
        let result = match self.form {
            Form::Human => words::named(file.as_bytes(), &ended.out),
            Form::Json => words::compact(&ended.out),
        };
        let said = words::whole_lines(ended.err);
        let printed = self.meter.aside(|| {
            let printed = if result.is_empty() { Ok(()) } else { print(&result) };
            // There is nobody to tell if that fails.
            let _ = Channel::Err.write_all(&said);
            printed
        });
        if let Err(failure) = printed {
            self.is_all_shown = false;
            self.tell(ended.task, &failure);
        }
    }

    fn fail(&mut self, image: usize, code: Code, text: String) {
        let name = self.files[image].as_bytes().to_vec();
        self.tell(image, &Failure::Image { code, image: name, text: text.into_bytes() });
        self.count(false);
    }

    fn count(&mut self, is_committed: bool) {
        *(if is_committed { &mut self.committed } else { &mut self.failed }) += 1;
        self.show_progress();
    }

    fn tell(&self, image: usize, failure: &Failure) {
        let listener = self.listener.about(&self.files[image]);
        self.meter.aside(|| listener.tell(failure));
    }

    /// Says how it went, and gives the exit status.
    fn end(self) -> u8 {
        let Self { files, listener, meter, failed, is_all_shown, .. } = self;
        if failed == 0 {
            meter.finish();
        } else {
            drop(meter);
            listener.tell_people(&words::summary(failed, files.len()));
        }
        if failed == 0 && is_all_shown { COMMITTED } else { FAILED }
    }
}
