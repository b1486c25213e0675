//! Merges an overlay into the image below it, if that takes no more than a gigabyte: `consolidate OVERLAY`.
//!
//! Needs an installed `instar`, in `PATH` or named by the environment variable `INSTAR`.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use instar::client::{Commit, Error, Plan};

/// The most bytes that are moved without asking anybody.
const LIMIT_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    let Some(overlay) = env::args_os().nth(1) else {
        eprintln!("usage: consolidate OVERLAY");
        return ExitCode::FAILURE;
    };
    match consolidate(&Commit::new(overlay).verify(true), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("consolidate: {error}");
            if let Some(hint) = error.failure().and_then(|failure| failure.hint.as_deref()) {
                eprintln!("{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Plans the commit, carries it out if it is small, and tells what was done.
///
/// # Errors
/// Whatever keeps the plan from being made or the commit from being done.
pub(crate) fn consolidate(commit: &Commit, out: &mut impl Write) -> Result<(), Error> {
    let mut tell = |line: String| {
        // Nobody has to listen.
        let _ = writeln!(out, "{line}");
    };
    let plan = Plan::commit(commit).run()?;
    let bytes = plan.moves.bytes;
    if bytes > LIMIT_BYTES {
        tell(format!("{bytes} bytes are too many to be moved now"));
        return Ok(());
    }
    for file in plan.files.iter().filter(|file| file.planned_length_bytes > file.length_bytes) {
        tell(format!("{} will grow by {} bytes", file.filename, file.planned_length_bytes - file.length_bytes));
    }
    let running = commit.start()?;
    for progress in running.updates() {
        tell(format!("{:3.0} %", progress.percent));
    }
    let report = running.wait()?;
    report.messages.into_iter().for_each(&mut tell);
    tell(format!("{} received {} bytes of {}", report.backing, report.bytes_committed, report.overlay));
    Ok(())
}
