//! The data that stands in the tree: complete, unchanged, and derived as it says.

use conformance::case::{self, Operation};
use conformance::differential::corpus;
use conformance::ledger::Ledger;
use conformance::{differences, expected, fixture, manifest, paths};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn manifest_names_every_file_with_its_digest() {
    let written = std::fs::read_to_string(paths::testdata().join("MANIFEST")).expect("MANIFEST can be read");
    let now = manifest::render().expect("testdata can be read");
    let (written, now): (BTreeSet<&str>, BTreeSet<&str>) = (written.lines().collect(), now.lines().collect());
    let stale: Vec<_> = written.symmetric_difference(&now).collect();
    assert!(stale.is_empty(), "MANIFEST and files disagree: {stale:#?}");
}

#[test]
fn regenerating_expected_outputs_gives_the_same_bytes() {
    let root = paths::testdata().join("expected-outputs");
    let generated = expected::generate().expect("recordings can be read");
    let found = fixture::list_files(&root).expect("expected-outputs can be read");
    let found: BTreeSet<String> =
        found.iter().map(|p| p.strip_prefix(&root).expect("below it").to_string_lossy().into_owned()).collect();
    assert_eq!(generated.keys().cloned().collect::<BTreeSet<_>>(), found, "the lists of files differ");
    for (name, bytes) in generated {
        assert!(std::fs::read(root.join(&name)).expect("listed above") == bytes, "{name} differs");
    }
}

#[test]
fn recordings_are_complete() {
    let commit = case::load_all(Operation::Commit).expect("recordings can be read");
    let rebase = case::load_all(Operation::Rebase).expect("recordings can be read");
    assert_eq!((commit.len() + rebase.len(), case::versions().expect("VERSIONS").len()), (291, 20));
}

#[test]
fn corpus_is_complete() {
    let cases = corpus::load(&corpus::folder()).expect("the corpus can be read");
    assert_eq!(cases.len(), 313);
    for case in &cases {
        assert!(!fixture::list_files(Path::new(&case.fixture)).expect("its fixture").is_empty(), "{}", case.name);
    }
}

#[test]
fn ledger_names_only_cases_that_exist() {
    let mut cases = case::load_all(Operation::Commit).expect("recordings can be read");
    cases.extend(case::load_all(Operation::Rebase).expect("recordings can be read"));
    let idle = Ledger::load().expect("ledger.toml").idle_patterns(&cases);
    assert!(idle.is_empty(), "ledger.toml names no case with {idle:?}");
}

#[test]
fn differences_document_is_current() {
    let written = std::fs::read_to_string(paths::root().join("docs/differences.md")).expect("docs/differences.md");
    let now = differences::render(&Ledger::load().expect("ledger.toml"));
    assert!(written == now, "docs/differences.md is stale: cargo run -p conformance --bin differences");
}
