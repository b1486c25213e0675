//! The oracles' own readers against what qemu-img recorded about the same bytes: every file that a recorded command left alone is read
//! from its fixture. Needs neither qemu-img nor the product.

use conformance::allocation;
use conformance::case::{self, Case, Operation, Outcome};
use conformance::fixture::Workspace;
use conformance::image::Chain;
use conformance::judge;
use conformance::roles::{self, Roles};
use conformance::runner::format_of;
use std::collections::BTreeSet;
use std::path::Path;

/// Whether the command ended before it wrote anything.
fn refused_at_once(outcome: &Outcome) -> bool {
    outcome.rc == Some(1) && outcome.stderr.starts_with("qemu-img: Could not open '")
}

fn compare(case: &Case, workspace: &Workspace, name: &str, outcome: &Outcome) {
    let recorded = &outcome.files[name];
    let reading = judge::read_file(workspace.path(), name);
    let what = format!("{}: {name}", case.name);
    assert_eq!(recorded.content.as_ref(), reading.content.as_ref().ok(), "{what}: {:?}", reading.content);
    if let (Some(recorded), Some(now)) = (&recorded.map, &reading.map) {
        assert_eq!(*recorded, allocation::as_recorded(now), "{what}");
    }
    if let (Some(recorded), Some(Ok(now))) = (recorded.check, &reading.check) {
        assert_eq!((recorded.corruptions, recorded.leaks), (now.corruptions, now.leaks), "{what}: {:?}", now.notes);
    }
}

/// Whether the command was for no file of the chain. FILE itself is opened for writing even with -d: repairs, bitmaps and feature
/// bits may change it.
fn chain_is_untouched(folder: &Path, name: &str, roles: &Roles) -> bool {
    let Ok(chain) = Chain::open(&folder.join(name), format_of(name)) else { return false };
    let mut names = chain.files().iter().filter_map(|file| file.canonicalize().ok());
    names.all(|file| {
        let mut changed = roles.writable.iter().chain(&roles.overlay);
        !changed.any(|name| folder.join(name).canonicalize().is_ok_and(|other| other == file))
    })
}

#[test]
fn readers_agree_with_recordings_of_untouched_files() {
    let mut cases = case::load_all(Operation::Commit).expect("recordings");
    cases.extend(case::load_all(Operation::Rebase).expect("recordings"));
    let mut seen = BTreeSet::new();
    for case in &cases {
        let workspace = Workspace::unpack(&case.fixture).expect("fixture");
        let roles = roles::of(case, workspace.path());
        let outcome = case.outcomes.last().expect("at least one");
        for (name, state) in &outcome.files {
            let certain =
                refused_at_once(outcome) || outcome.rc == Some(0) && chain_is_untouched(workspace.path(), name, &roles);
            if certain && state.sha256.is_none() && seen.insert((case.fixture.clone(), name.clone())) {
                compare(case, &workspace, name, outcome);
            }
        }
    }
    assert!(seen.len() > 100, "only {} files were compared", seen.len());
}
