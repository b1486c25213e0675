//! Bugs planted in the product, one at a time: each must be noticed, by the oracles of the matrix or by the crash harness.

use conformance::case::Case;
use conformance::crash::{Effort, try_case};
use conformance::judge;
use conformance::oracles::{Judging, Strictness};
use conformance::paths;
use conformance::runner::InProcess;
use conformance::whitelist::Whitelist;
use instar_plan::planted::{Bug, plant};

const VERSION: &str = "10.0.2";

/// Who has to notice.
#[derive(Clone, Copy, Debug)]
enum Judge {
    /// This oracle of the matrix.
    Oracle(&'static str),
    /// The crash harness.
    Crash,
}
use Judge::{Crash, Oracle};

/// Every bug, a case in which it makes a difference, and who has to notice.
const TABLE: [(Bug, &str, Judge); 18] = [
    (Bug::LostZeroCluster, "commit-overlay-all-zero", Oracle("content")),
    (Bug::LostLastPartialCluster, "rebase-sizes-bigger", Oracle("content")),
    (Bug::WrongSubclusterBit, "commit-extl2-both", Oracle("content")),
    (Bug::RefcountTooHigh, "commit-plain", Oracle("structure")),
    (Bug::RefcountMissing, "commit-plain", Oracle("structure")),
    (Bug::StaleL2Window, "commit-cluster-512", Oracle("content")),
    (Bug::WrongCopiedFlag, "commit-plain", Oracle("structure")),
    (Bug::CompressedRefcountKept, "commit-compressed-base", Oracle("structure")),
    (Bug::BitmapNotUpdated, "commit-bitmap-base", Crash),
    (Bug::BaseNotGrown, "commit-overlay-larger", Oracle("content")),
    (Bug::EverythingComparesEqual, "rebase-safe-other", Oracle("content")),
    (Bug::NoBarrierBeforeTables, "commit-plain", Crash),
    (Bug::NoBarrierBeforeEmptying, "commit-plain", Crash),
    (Bug::ReleasedTooEarly, "commit-snapshot-base", Crash),
    (Bug::RebuiltWithoutDirtyBit, "commit-broken-overlay-autoclear-unknown", Crash),
    (Bug::HeaderSwitchedTooEarly, "rebase-safe-other", Crash),
    (Bug::HeaderTorn, "rebase-safe-other", Crash),
    (Bug::DataFileClearedTooEarly, "commit-data-file-overlay", Crash),
];

fn load(name: &str) -> Case {
    let operation = name.split('-').next().expect("a word");
    Case::load(&paths::testdata().join(format!("recordings/{operation}/{name}.json"))).expect("recorded")
}

/// What is said about a case: who says it, and what.
fn complaints(case: &Case, judge: Judge, whitelist: &Whitelist) -> Vec<(&'static str, String)> {
    match judge {
        Oracle(_) => {
            let judging = Judging { program: &InProcess, whitelist, strictness: Strictness::Product };
            let verdict = judge::judge_version(case, &judging, VERSION).expect("judged");
            verdict.findings.iter().map(|finding| (finding.oracle, finding.to_string())).collect()
        }
        Crash => {
            let failures = try_case(case, &Effort::BRIEF).expect("tried").failures;
            failures.into_iter().map(|failure| ("crash", failure)).collect()
        }
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    let whitelist = Whitelist::load().expect("whitelist.toml");
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        assert!(TABLE.iter().any(|(listed, ..)| listed == bug), "{bug:?} is in no row");
    }
    for (bug, name, judge) in TABLE {
        let case = load(name);
        let wanted = match judge {
            Oracle(oracle) => oracle,
            Crash => "crash",
        };
        plant(None);
        if let Some((_, text)) = complaints(&case, judge, &whitelist).iter().find(|(who, _)| *who == wanted) {
            missed.push(format!("{name}: {wanted} complains although nothing is planted: {text}"));
        }
        plant(Some(bug));
        let found = complaints(&case, judge, &whitelist);
        match found.iter().find(|(who, _)| *who == wanted) {
            Some((_, text)) => println!("{bug:?}: noticed by {wanted} in {name}: {text}"),
            None => missed.push(format!("{bug:?}: not noticed by {wanted} in {name}, only {found:?}")),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
