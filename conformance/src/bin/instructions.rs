//! Carries out one of the fixed workloads, for tests/instructions.rs to count its instructions; without an argument it names them.

use conformance::runner::inprocess::{Workload, workload};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        println!("{}", workload::NAMES.join("\n"));
        return ExitCode::SUCCESS;
    };
    let Some(mut workload) = Workload::named(&name) else {
        eprintln!("instructions: there is no workload {name}");
        return ExitCode::FAILURE;
    };
    match workload.measured() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("instructions: {name} failed: {text}");
            ExitCode::FAILURE
        }
    }
}
