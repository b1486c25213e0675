//! The recorder reproduces the delivered recordings for an installed qemu-img of a recorded version.

use conformance::case::{self, Case, FileState, Operation};
use conformance::recorder;
use conformance::runner::QemuImg;
use conformance::text;
use conformance::whitelist::{Comparison, FileLength, Whitelist};
use std::path::Path;

/// A sample over formats, chains, errors and crashes; the self-test runs every case.
const SAMPLE: [&str; 11] = [
    "commit-plain",
    "commit-plain-progress",
    "commit-plain-unknown-option",
    "commit-raw-base",
    "commit-data-file-overlay",
    "commit-qcow2-on-parallels",
    "commit-broken-overlay-l2-unaligned",
    "commit-broken-overlay-magic",
    "commit-subdir",
    "rebase-safe-other",
    "rebase-zstd-detach",
];

fn same_state(case: &Case, name: &str, delivered: &FileState, now: &FileState, whitelist: &Whitelist) {
    let what = format!("{} {name}", case.name);
    assert_eq!(delivered.check, now.check, "{what}");
    assert_eq!(delivered.check_rc, now.check_rc, "{what}");
    assert_eq!(delivered.content, now.content, "{what}");
    assert_eq!(delivered.map, now.map, "{what}");
    assert_eq!(delivered.sha256, now.sha256, "{what}");
    assert_eq!(delivered.info_error, now.info_error, "{what}");
    // Where qemu-img's lengths vary is the length oracle's knowledge; here any will do.
    let length = FileLength { real: now.length, varies_up_to: Some(u64::MAX) };
    if let (Some(delivered), Some(now)) = (&delivered.info, &now.info) {
        assert_ne!(whitelist.compare(delivered, now, length), Comparison::Different, "{what}\n{delivered}\n{now}");
    }
    assert_eq!(delivered.info.is_some(), now.info.is_some(), "{what}");
}

#[test]
fn recorder_reproduces_the_delivered_recordings() {
    let versions = case::versions().expect("VERSIONS");
    let Some(qemu) = QemuImg::installed().into_iter().find(|q| versions.iter().any(|v| v == q.version())) else {
        eprintln!("recorder_reproduces_the_delivered_recordings: no qemu-img of a recorded version is installed");
        return;
    };
    let whitelist = Whitelist::load().expect("whitelist.toml");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cases = case::load_all(Operation::Commit).expect("recordings");
    cases.extend(case::load_all(Operation::Rebase).expect("recordings"));
    for case in cases.iter().filter(|case| SAMPLE.contains(&case.name.as_str())) {
        let recorded = recorder::record(case, &qemu, &qemu).expect("can be recorded");
        recorder::write(&recorded, folder.path()).expect("can be written");
        let path = folder.path().join(format!("{}/{}.json", case.op.word(), case.name));
        let again: Case = serde_json::from_str(&std::fs::read_to_string(&path).expect("written")).expect("same schema");
        let (now, delivered) = (&again.outcomes[0], case.outcome(qemu.version()).expect("recorded"));
        assert_eq!(now.rc, delivered.rc, "{}", case.name);
        assert_eq!(text::collapse_progress(&now.stdout), text::collapse_progress(&delivered.stdout), "{}", case.name);
        assert_eq!(now.stderr, text::fold_node_names(&delivered.stderr), "{}", case.name);
        assert_eq!(now.files.keys().collect::<Vec<_>>(), delivered.files.keys().collect::<Vec<_>>(), "{}", case.name);
        for (name, state) in &now.files {
            same_state(case, name, &delivered.files[name], state, &whitelist);
        }
    }
}

#[test]
fn write_fails_naming_the_file() {
    let path = Path::new("/proc/no-such-folder");
    let cases = case::load_all(Operation::Commit).expect("recordings");
    let error = recorder::write(&cases[0], path).expect_err("cannot be written");
    assert!(error.to_string().contains("/proc/no-such-folder"), "{error}");
}
