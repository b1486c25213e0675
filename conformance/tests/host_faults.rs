//! System calls of the built program fail, one a run: every kind, in every process, in every way. Never a success that is none,
//! always a message, nothing lost, and the same command completes the work.
//!
//! `INSTAR_HOST_FAULTS=N` tries one in N calls of a kind; 1 tries all. Cannot see: calls that the program does not make on this
//! machine's file system, and failures that come in pairs.

use conformance::case::Case;
use conformance::crash::{Selection, fail_system_calls};
use conformance::paths;
use conformance::runner::Product;
use std::fs::OpenOptions;

/// One in so many, where the environment does not say otherwise.
const ONE_IN: usize = 24;

fn without_kvm(test: &str) -> bool {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        return false;
    }
    let wanted = std::env::var_os("INSTAR_TEST_WITHOUT_KVM").is_some_and(|value| value == "1");
    assert!(wanted, "{test} needs /dev/kvm, which cannot be opened; INSTAR_TEST_WITHOUT_KVM=1 leaves such tests out");
    eprintln!("{test}: skipped, /dev/kvm cannot be opened and INSTAR_TEST_WITHOUT_KVM=1 is set");
    true
}

fn fails_well(name: &str, options: &[&str]) {
    if without_kvm(name) {
        return;
    }
    let one_in = std::env::var("INSTAR_HOST_FAULTS").map_or(ONE_IN, |value| value.parse().expect("a number"));
    let operation = name.split('-').next().expect("a word");
    let path = paths::testdata().join(format!("recordings/{operation}/{name}.json"));
    let mut case = Case::load(&path).expect("recorded");
    case.argv.splice(..0, options.iter().map(ToString::to_string));
    let product = Product::find().expect("the program is built");
    let tally = fail_system_calls(&case, &product, Selection { one_in }).expect("a fixture");
    println!(
        "{name}: {} calls that can fail; {} failures injected, {} of them ended the command, {} were not reached",
        tally.calls, tally.injected, tally.refused, tally.missed
    );
    let mut failures = tally.failures;
    let count = failures.len();
    failures.truncate(20);
    assert!(failures.is_empty(), "{count} ended badly:\n{}", failures.join("\n"));
    // Those that were not reached are not among them: how often a process calls depends on when it meets the others.
    assert!(tally.injected > 100, "too little was tried");
}

#[test]
fn no_failing_system_call_of_a_commit_is_overlooked_or_loses_anything() {
    fails_well("commit-plain", &[]);
}

#[test]
fn no_failing_system_call_of_a_commit_that_removes_its_overlay_is_overlooked_or_loses_anything() {
    fails_well("commit-raw-base", &["--delete-overlay"]);
}

#[test]
fn no_failing_system_call_of_a_rebase_is_overlooked_or_loses_anything() {
    fails_well("rebase-safe-other", &[]);
}
