//! Every request of a representative set of cases fails in every way: never a success, always a message, nothing lost.

use conformance::case::Case;
use conformance::crash::{Fault, FaultTally, fail_every_request, fail_every_request_of_the_command};
use conformance::paths;

/// Growing bases, snapshots, bitmaps, compression, data files, subclusters, all kinds of target; every mode of rebase.
const CASES: [&str; 22] = [
    "commit-plain",
    "commit-overlay-larger",
    "commit-snapshot-base",
    "commit-bitmap-base",
    "commit-compressed-base",
    "commit-data-file-base",
    "commit-data-file-overlay",
    "commit-extl2-both",
    "commit-refcount-1",
    "commit-v2",
    "commit-raw-base",
    "commit-vmdk",
    "commit-qcow2-on-qed",
    "commit-qcow2-on-vdi",
    "commit-qcow2-on-vhdx",
    "commit-qcow2-on-qcow",
    "rebase-safe-other",
    "rebase-safe-compress",
    "rebase-safe-detach",
    "rebase-snapshot-safe",
    "rebase-unsafe-other",
    "rebase-v2-safe",
];

/// Those that are run through the command line as well, on files.
const COMMANDS: [&str; 4] = ["commit-plain", "commit-raw-base", "rebase-safe-other", "rebase-unsafe-other"];

fn load(name: &str) -> Case {
    let operation = name.split('-').next().expect("a word");
    Case::load(&paths::testdata().join(format!("recordings/{operation}/{name}.json"))).expect("recorded")
}

fn assert_none(tallies: impl Iterator<Item = FaultTally>) {
    let (mut injected, mut failures) = (0, Vec::new());
    for tally in tallies {
        assert!(tally.injected > 0, "a case without a single request");
        injected += tally.injected;
        failures.extend(tally.failures);
    }
    println!("faults injected: {injected}, ended badly: {}", failures.len());
    failures.truncate(20);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_failing_request_is_overlooked_or_loses_anything() {
    assert_none(CASES.iter().map(|name| fail_every_request(&load(name)).expect("a fixture")));
}

#[test]
fn every_failure_has_its_exit_status_and_its_words_and_can_be_made_good() {
    for fault in [Fault::IoError, Fault::NoSpace] {
        assert_none(
            COMMANDS.iter().map(|name| fail_every_request_of_the_command(&load(name), fault).expect("a fixture")),
        );
    }
}
