//! Writes `docs/differences.md` from the ledger.

use conformance::{differences, ledger::Ledger, paths};
use std::error::Error;
use std::process::ExitCode;

fn run() -> Result<(), Box<dyn Error>> {
    let path = paths::root().join("docs/differences.md");
    std::fs::create_dir_all(paths::root().join("docs"))?;
    std::fs::write(&path, differences::render(&Ledger::load()?))?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
