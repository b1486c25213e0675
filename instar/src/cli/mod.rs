//! The command line: options in, one command run, results and errors printed as qemu-img words them.

mod arguments;
mod cache;
mod commit;
mod commit_checks;
mod error;
pub mod info;
mod info_command;
mod job;
mod meter;
mod operand;
mod output;
mod progress;
mod rate;
mod rebase;
mod repairs;
mod sandbox;
mod secret;
mod usage;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use arguments::{Arguments, Command};
pub use error::Failure;
pub use rebase::RebaseFailure;

use sandbox::{KvmSandbox, Sandbox};

/// Runs the program with its arguments, the program's own name first, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(failure.exit_status())
        }
    }
}

fn dispatch(arguments: &[OsString]) -> Result<(), Failure> {
    let joined = arguments::join_progress(arguments);
    let parsed = match Arguments::try_parse_from(&joined) {
        Ok(parsed) => parsed,
        Err(error) if version::is_wanted_in_full(&error, arguments) => return version::print_in_full(&error),
        Err(error) => return usage::failure(&error, arguments).map_or_else(|help| output::print(help.as_bytes()), Err),
    };
    let mut sandbox = KvmSandbox::default();
    if parsed.command.requires_jail() {
        sandbox.require_jail();
    }
    match parsed.command {
        Command::Commit(arguments) => commit::run(&arguments, &mut sandbox),
        Command::Info(arguments) => info_command::run(&arguments, &mut sandbox),
        Command::Rebase(arguments) => rebase::run(&arguments, &mut sandbox),
    }
}
