//! Tries the states that crashes can leave: `crash [--brief] [--samples N] [--exhaustive N] [--seed N] [--at-least N] [FILTER]`.
//! Without options, more than a million states; with `--brief`, what `cargo test` does. Ends with status 1 if a state fails, or if
//! fewer were tried than `--at-least` says.

use conformance::crash::{Effort, try_all};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut effort = Effort::THOROUGH;
    let mut filter = String::new();
    let mut at_least = 1;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<u64>().ok());
        let known = match argument.as_str() {
            "--samples" => number().map(|value| effort.samples = value),
            "--exhaustive" => {
                number().map(|value| effort.exhaustive_requests = usize::try_from(value.min(20)).unwrap_or(20))
            }
            "--brief" => {
                effort = Effort::BRIEF;
                Some(())
            }
            "--at-least" => number().map(|value| at_least = value),
            "--seed" => number().map(|value| effort.seed = value),
            option if option.starts_with('-') => None,
            name => {
                name.clone_into(&mut filter);
                Some(())
            }
        };
        if known.is_none() {
            eprintln!("usage: crash [--brief] [--samples N] [--exhaustive N] [--seed N] [--at-least N] [FILTER]");
            return ExitCode::FAILURE;
        }
    }
    let seen = |name: &str, tally: &conformance::crash::Tally| {
        let (states, failed, ms) = (tally.states(), tally.failures.len(), tally.time.as_millis());
        eprintln!("{name}: {states} states, {failed} failed, {ms} ms");
    };
    match try_all(&filter, &effort, &seen) {
        Ok(tally) => {
            println!("{tally}");
            if tally.states() < at_least {
                eprintln!("error: these are fewer than {at_least} states");
                return ExitCode::FAILURE;
            }
            if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
