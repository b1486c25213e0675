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
    (Bug::LostLastPartialCluster, "commit-size-unaligned", Oracle("content")),
    (Bug::WrongSubclusterBit, "commit-extl2-base", Oracle("content")),
    (Bug::RefcountTooHigh, "commit-plain", Oracle("structure")),
    (Bug::RefcountMissing, "commit-plain", Oracle("structure")),
    (Bug::StaleL2Window, "commit-many-l2", Oracle("content")),
    (Bug::WrongCopiedFlag, "commit-plain", Oracle("structure")),
    (Bug::CompressedRefcountKept, "commit-compressed-base", Oracle("structure")),
    (Bug::BitmapNotUpdated, "commit-bitmap-base", Crash),
    (Bug::BaseNotGrown, "commit-overlay-larger", Oracle("content")),
    (Bug::EverythingComparesEqual, "rebase-safe-other", Oracle("content")),
    (Bug::NoBarrierBeforeTables, "commit-plain", Crash),
    (Bug::NoBarrierBeforeEmptying, "commit-plain", Crash),
    (Bug::ReleasedTooEarly, "commit-snapshot-base", Crash),
    (Bug::RebuiltWithoutDirtyBit, "commit-plain", Crash),
    (Bug::HeaderSwitchedTooEarly, "rebase-safe-other", Crash),
    (Bug::HeaderTorn, "rebase-safe-other", Crash),
    (Bug::DataFileClearedTooEarly, "commit-data-file-overlay", Crash),
];

fn load(name: &str) -> Case {
    let operation = name.split('-').next().expect("a word");
    Case::load(&paths::testdata().join(format!("recordings/{operation}/{name}.json"))).expect("recorded")
}

/// What the judge says about a case, in one line.
fn complaint(case: &Case, judge: Judge, whitelist: &Whitelist) -> Option<String> {
    match judge {
        Oracle(oracle) => {
            let judging = Judging { program: &InProcess, whitelist, strictness: Strictness::Product };
            let verdict = judge::judge_version(case, &judging, VERSION).expect("judged");
            verdict.findings.iter().find(|finding| finding.oracle == oracle).map(ToString::to_string)
        }
        Crash => try_case(case, &Effort::BRIEF).expect("tried").failures.first().cloned(),
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
        plant(None);
        if let Some(complaint) = complaint(&case, judge, &whitelist) {
            missed.push(format!("{name}: {judge:?} complains although nothing is planted: {complaint}"));
        }
        plant(Some(bug));
        match complaint(&case, judge, &whitelist) {
            Some(complaint) => println!("{bug:?}: noticed by {judge:?} in {name}: {complaint}"),
            None => missed.push(format!("{bug:?}: not noticed by {judge:?} in {name}")),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
