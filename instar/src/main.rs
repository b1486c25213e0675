//! The `instar` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    instar::cli::run(std::env::args_os())
}
