//! Counts the instructions that planner and executor take for fixed workloads, under valgrind, and compares them with
//! `instructions.toml`. So a slow-down shows without timing, on a busy machine as well.
//!
//! Cannot see: what the host and the disk take. Numbers hold for the profile that `cargo test` uses and the toolchain of
//! rust-toolchain.toml; processors and C libraries differ by less than the tolerance.

use conformance::paths;
use conformance::runner::inprocess::workload::NAMES;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Set to have the file written anew.
const RECORD: &str = "INSTAR_RECORD_INSTRUCTIONS";
/// The function whose instructions count, with all that it calls.
const MEASURED: &str = "*Workload*measured*";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratchet {
    tolerance_percent: f64,
    instructions: BTreeMap<String, u64>,
}

fn file() -> PathBuf {
    paths::root().join("conformance/instructions.toml")
}

/// Counts one workload.
fn count(name: &str) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let out = folder.path().join("callgrind");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--error-exitcode=9"]);
    command.arg(format!("--toggle-collect={MEASURED}")).arg(format!("--callgrind-out-file={}", out.display()));
    let output = command.arg(env!("CARGO_BIN_EXE_instructions")).arg(name).output().expect("valgrind runs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(out).expect("counts");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a total");
    let total = total.trim().parse().expect("a number");
    assert!(total > 1000, "{name}: nothing was counted; is the function named as {MEASURED}?");
    total
}

fn record(tolerance_percent: f64) {
    let mut text = String::from(
        "# Instructions of planner and executor for fixed workloads, counted by tests/instructions.rs with valgrind. Written by\n\
         # INSTAR_RECORD_INSTRUCTIONS=1 cargo test -p conformance --test instructions\n",
    );
    let _ = write!(text, "tolerance_percent = {tolerance_percent:.1}\n\n[instructions]\n");
    for name in NAMES {
        let _ = writeln!(text, "{name} = {}", count(name));
    }
    fs::write(file(), text).expect("writes");
}

/// What is to be said of a count, if anything.
fn finding(name: &str, recorded: u64, counted: u64, tolerance_percent: f64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of numbers far below 2^53")]
    let percent = (counted as f64 / recorded as f64 - 1.0) * 100.0;
    if percent > tolerance_percent {
        Some(format!("{name}: {counted} instructions, {percent:.1} % more than the {recorded} of instructions.toml"))
    } else if percent < -tolerance_percent {
        Some(format!(
            "{name}: {counted} instructions, {:.1} % fewer than the {recorded} of instructions.toml: keep what was won with \
             {RECORD}=1 cargo test -p conformance --test instructions",
            -percent
        ))
    } else {
        None
    }
}

#[test]
fn no_workload_takes_more_instructions_than_recorded() {
    let ratchet = || toml::from_str::<Ratchet>(&fs::read_to_string(file()).expect("instructions.toml")).expect("valid");
    let left_out = |why: &str| println!("no_workload_takes_more_instructions_than_recorded: skipped, {why}");
    if Command::new("valgrind").arg("--version").output().is_err() {
        return left_out("there is no valgrind");
    }
    if !cfg!(debug_assertions) {
        return left_out("the recorded numbers are those of the test profile");
    }
    if std::env::var_os(RECORD).is_some() {
        record(3.0);
    }
    let ratchet = ratchet();
    let listed: Vec<&str> = ratchet.instructions.keys().map(String::as_str).collect();
    let mut names = NAMES;
    names.sort_unstable();
    assert_eq!(listed, names, "instructions.toml lists other workloads than there are");
    let mut findings = Vec::new();
    for (name, recorded) in &ratchet.instructions {
        let counted = count(name);
        println!("{name}: {counted} instructions, recorded are {recorded}");
        findings.extend(finding(name, *recorded, counted, ratchet.tolerance_percent));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn both_directions_are_noticed_beyond_the_tolerance() {
    assert_eq!(finding("a", 1000, 1029, 3.0), None);
    assert_eq!(finding("a", 1000, 971, 3.0), None);
    assert!(finding("a", 1000, 1031, 3.0).expect("slower").contains("3.1 % more than"));
    assert!(finding("a", 1000, 900, 3.0).expect("faster").contains("10.0 % fewer than"));
}
