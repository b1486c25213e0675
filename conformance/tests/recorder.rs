//! The recorder reproduces the delivered recordings for an installed qemu-img of a recorded version.

use conformance::case::{self, Case, FileState, Operation};
use conformance::recorder;
use conformance::runner::QemuImg;
use conformance::text;
use conformance::whitelist::{Comparison, FileLength, Whitelist};
use std::path::Path;

/// Cases in which qemu-img corrupts an image in an order that varies.
const NOT_DETERMINISTIC: [&str; 2] = ["commit-broken-base-refcount-zero", "commit-broken-base-l2-overlaps-refcounts"];

/// One case in this many is recorded again for every installed version; INSTAR_RECORD_ALL records them all.
const STRIDE: usize = 8;

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

fn same_case(case: &Case, now: &Case, version: &str, whitelist: &Whitelist) {
    let what = format!("{}, version {version}", case.name);
    let (now, delivered) = (&now.outcomes[0], case.outcome(version).expect("recorded"));
    assert_eq!(now.rc, delivered.rc, "{what}");
    assert_eq!(text::collapse_progress(&now.stdout), text::collapse_progress(&delivered.stdout), "{what}");
    assert_eq!(now.stderr, text::fold_node_names(&delivered.stderr), "{what}");
    assert_eq!(now.files.keys().collect::<Vec<_>>(), delivered.files.keys().collect::<Vec<_>>(), "{what}");
    for (name, state) in &now.files {
        same_state(case, name, &delivered.files[name], state, whitelist);
    }
}

#[test]
fn recorder_reproduces_the_delivered_recordings() {
    let versions = case::versions().expect("VERSIONS");
    let installed = QemuImg::installed();
    let recorded: Vec<&QemuImg> = installed.iter().filter(|q| versions.iter().any(|v| v == q.version())).collect();
    let Some(reference) = recorded.first() else {
        eprintln!("recorder_reproduces_the_delivered_recordings: no qemu-img of a recorded version is installed");
        return;
    };
    let whitelist = Whitelist::load().expect("whitelist.toml");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cases = case::load_all(Operation::Commit).expect("recordings");
    cases.extend(case::load_all(Operation::Rebase).expect("recordings"));
    cases.retain(|case| !NOT_DETERMINISTIC.contains(&case.name.as_str()));
    let stride = if std::env::var_os("INSTAR_RECORD_ALL").is_some() { 1 } else { STRIDE };
    for qemu in &recorded {
        for case in cases.iter().step_by(stride) {
            // What hangs is waited for once, when it is recorded for good.
            let delivered = case.outcome(qemu.version()).expect("recorded");
            if delivered.rc.is_none() || delivered.files.values().any(|state| state.timeout == Some(true)) {
                continue;
            }
            let recorded = recorder::record_runs(case, qemu, reference, 1).expect("can be recorded");
            recorder::write(&recorded, folder.path()).expect("can be written");
            let path = folder.path().join(format!("{}/{}.json", case.op.word(), case.name));
            let text = std::fs::read_to_string(&path).expect("written");
            same_case(case, &serde_json::from_str(&text).expect("same schema"), qemu.version(), &whitelist);
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
