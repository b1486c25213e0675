//! The command line: options in, one command run, results and errors printed as qemu-img words them.

mod arguments;
mod cache;
mod commit;
mod commit_checks;
mod doctor;
mod error;
pub mod info;
mod info_command;
mod job;
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
use sandbox::{LocalSandbox, Sandbox, StandIn};

/// Runs the program with its arguments, the program's own name first, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    ExitCode::from(run_in(&arguments, &mut LocalSandbox::default()))
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
    match dispatch(arguments, sandbox) {
        Ok(()) => 0,
        Err(failure) => {
            output::complain(&failure.to_string());
            failure.exit_status()
        }
    }
}

fn dispatch(arguments: &[OsString], sandbox: &mut impl Sandbox) -> Result<(), Failure> {
    let joined = arguments::join_progress(arguments);
    let parsed = match Arguments::try_parse_from(&joined) {
        Ok(parsed) => parsed,
        Err(error) if version::is_wanted_in_full(&error, arguments) => return version::print_in_full(&error),
        Err(error) => return usage::failure(&error, arguments).map_or_else(|help| output::print(help.as_bytes()), Err),
    };
    let jail = parsed.command.jail();
    sandbox.run_on(runner::choose(jail.sandbox.as_deref())?);
    if jail.required {
        sandbox.require_jail();
    }
    match parsed.command {
        Command::Commit(arguments) => commit::run(&arguments, None, sandbox),
        Command::Doctor(arguments) => doctor::run(&arguments, sandbox),
        Command::Info(arguments) => info_command::run(&arguments, sandbox),
        Command::Rebase(arguments) => rebase::run(&arguments, None, sandbox),
        Command::Plan(arguments) => plan::run(&arguments, sandbox),
    }
}
