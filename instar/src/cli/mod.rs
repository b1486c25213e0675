//! The command line: options in, one command run, results and errors printed as qemu-img words them.

mod arguments;
mod cache;
mod coming;
mod commit;
mod commit_checks;
mod doctor;
mod drop_in;
mod error;
mod foresight;
#[cfg(test)]
mod hearsay;
pub mod info;
mod info_command;
mod inspector;
mod job;
mod local;
mod logging;
mod many;
mod meter;
mod operand;
mod output;
mod plan;
mod progress;
mod rate;
mod rebase;
mod repairs;
mod room;
mod runner;
mod sandbox;
mod secret;
mod stage;
mod stats;
mod telling;
mod usage;
mod verdict;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use arguments::{Arguments, Command};
pub use error::Failure;
pub use rebase::RebaseFailure;

use crate::session::Guest;
use arguments::QemuImgArguments;
use local::{LocalSandbox, StandIn};
use sandbox::Sandbox;
use telling::Listener;

/// Runs the program with its arguments, the program's own name first, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = drop_in::by_name(arguments.into_iter().collect());
    let mut sandbox = LocalSandbox::default();
    if foresight::begins_with_a_look(&arguments) {
        sandbox.foresee_a_look();
    }
    output::choose_colours();
    ExitCode::from(run_in(&arguments, &mut sandbox))
}

/// How a command ended that [`run_with`] has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit status.
    pub status: u8,
    /// What would have been written on standard output.
    pub stdout: Vec<u8>,
    /// What would have been written on standard error.
    pub stderr: Vec<u8>,
}

/// Runs the program as [`run`] does, but with `guest` in the sandbox's place, and keeps what it writes: for programs that
/// judge this one, without a virtual machine and without a process for every command. Relative names start in the calling
/// thread's working directory.
pub fn run_with(arguments: &[OsString], guest: &mut dyn Guest) -> Ended {
    let (status, kept) = output::keep(|| run_in(arguments, &mut StandIn(guest)));
    Ended { status, stdout: kept.out, stderr: kept.err }
}

fn run_in(arguments: &[OsString], sandbox: &mut impl Sandbox) -> u8 {
    let parsed = match parse(arguments) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return 0,
        Err(failure) => return Listener::of_words(arguments).tell(&failure),
    };
    if matches!(parsed.command, Command::QemuImg(_)) {
        output::speak_as(drop_in::NAME);
    }
    logging::start(parsed.verbosity);
    match Listener::of(&parsed.command) {
        Ok(listener) => dispatch(parsed.command, arguments, sandbox).unwrap_or_else(|failure| listener.tell(&failure)),
        Err(failure) => Listener::default().tell(&failure),
    }
}

/// The command line, read; nothing where it asked for help or version, which then is printed.
fn parse(arguments: &[OsString]) -> Result<Option<Arguments>, Failure> {
    let error = match Arguments::try_parse_from(arguments::join_progress(arguments)) {
        Ok(parsed) => return Ok(Some(parsed)),
        Err(error) => error,
    };
    if version::is_wanted_in_full(&error, arguments) {
        return version::print_in_full(&error).map(|()| None);
    }
    usage::failure(&error, arguments).map_or_else(|help| output::print(help.as_bytes()).map(|()| None), Err)
}

/// Runs a command and gives the exit status, if it has not failed.
fn dispatch(command: Command, arguments: &[OsString], sandbox: &mut impl Sandbox) -> Result<u8, Failure> {
    if let Some(jail) = command.jail() {
        sandbox.run_on(runner::choose(jail.sandbox.as_deref())?);
        if jail.required {
            sandbox.require_jail();
        }
    }
    match command {
        Command::Commit(arguments) => match arguments.jobs {
            Some(jobs) => return many::run(arguments.each, &jobs, sandbox),
            None => commit::run(&arguments.each, None, sandbox)?,
        },
        Command::Doctor(arguments) => doctor::run(&arguments, sandbox)?,
        Command::Info(arguments) => info_command::run(&arguments, sandbox)?,
        Command::Rebase(arguments) => rebase::run(&arguments, None, sandbox)?,
        Command::Plan(arguments) => plan::run(&arguments, sandbox)?,
        Command::QemuImg(QemuImgArguments { words }) => {
            return match drop_in::own_command(&words) {
                Some(own) => Ok(run_in(&[&[drop_in::NAME.into()], own].concat(), sandbox)),
                None => Err(drop_in::pass_on(arguments.first(), &words)),
            };
        }
    }
    Ok(0)
}
