//! The JSON Schemas in docs/schemas describe what the program prints, and all of it.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/schema.rs"]
mod schema;

use std::fs;
use std::path::{Path, PathBuf};

use common::Folder;
use image::qcow2;
use kvm::without_kvm;
use schema::{published, read, strict};

const SCHEMAS: [&str; 7] = ["commit", "doctor", "error", "info", "measure", "plan", "rebase"];

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn pair() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("top.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder
}

#[track_caller]
fn output(folder: &Folder, arguments: &[&str]) -> String {
    let ended = folder.run(arguments);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    ended.stdout
}

#[test]
fn each_schema_is_valid_and_listed_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let mut found = files_below(&folder);
    found.sort();
    let expected: Vec<PathBuf> = SCHEMAS.iter().map(|name| folder.join(format!("{name}.schema.json"))).collect();
    assert_eq!(found, expected);
    for name in SCHEMAS {
        jsonschema::meta::validate(&published(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_qemu_img_printed_of_images_fits_the_schema_of_info() {
    let schema = strict("info");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instar-testdata/expected-outputs");
    let recorded = files_below(&folder).into_iter().filter(|path| !path.ends_with("version-map.json"));
    let count = recorded.inspect(|path| drop(read(&schema, &fs::read_to_string(path).expect("a recording")))).count();
    assert!(count > 500, "only {count} recordings were found");
}

#[test]
fn a_member_that_is_missing_or_of_another_type_is_found() {
    let schema = strict("commit");
    let good = r#"{"overlay": "a", "overlay_format": "qcow2", "backing": "b", "backing_format": "raw",
                   "clusters_committed": 1, "bytes_committed": 65536, "overlay_clusters_cleared": 0}"#;
    read(&schema, good);
    for (text, changed) in
        [("\"raw\"", "\"nosuch\""), ("65536", "-1"), ("\"overlay\": \"a\", ", ""), ("65536", "65536, \"new\": 1")]
    {
        let bad = good.replace(text, changed);
        assert_ne!(bad, good);
        assert!(!schema.is_valid(&serde_json::from_str(&bad).expect("JSON")), "{bad}");
    }
}

#[test]
fn info_of_every_kind_fits() {
    if without_kvm("info_of_every_kind_fits") {
        return;
    }
    let schema = strict("info");
    let folder = pair();
    folder.file("plain", b"bytes");
    for version in ["6.0.0", "8.0.0", "9.2.0", "11.1.3"] {
        let info = |file| read(&schema, &output(&folder, &["info", "--qemu-version", version, "--output=json", file]));
        assert_eq!(info("top.qcow2")["backing-filename"], "base.qcow2");
        assert_eq!(info("plain")["format"], "raw");
    }
    let chain = read(&schema, &output(&folder, &["info", "--backing-chain", "--output=json", "top.qcow2"]));
    assert_eq!(chain.as_array().map(Vec::len), Some(2));
}

#[test]
fn commits_of_every_kind_fit() {
    if without_kvm("commits_of_every_kind_fit") {
        return;
    }
    let schema = strict("commit");
    for (options, cleared, deleted) in
        [(&["--stats"][..], 1, None), (&["-d", "--verify"], 0, None), (&["--delete-overlay"], 0, Some(true))]
    {
        let arguments = [&["commit", "--output", "json"], options, &["top.qcow2"]].concat();
        let said = read(&schema, &output(&pair(), &arguments));
        assert_eq!((&said["backing"], &said["bytes_committed"]), (&"base.qcow2".into(), &512.into()), "{options:?}");
        assert_eq!(said["overlay_clusters_cleared"], cleared, "{options:?}");
        assert_eq!(said.get("overlay_deleted").and_then(serde_json::Value::as_bool), deleted, "{options:?}");
    }
}

#[test]
fn rebases_of_every_kind_fit() {
    if without_kvm("rebases_of_every_kind_fit") {
        return;
    }
    let schema = strict("rebase");
    let rebase = |options: &[&str]| {
        let folder = pair();
        folder.file("other.qcow2", &qcow2(0xcc, "", ""));
        read(&schema, &output(&folder, &[&["rebase", "--output=json"], options, &["top.qcow2"]].concat()))
    };
    assert_eq!(rebase(&["-b", "other.qcow2", "-F", "qcow2"])["mode"], "safe");
    assert_eq!(rebase(&["-u", "-b", "other.qcow2", "-F", "qcow2"])["new_backing"], "other.qcow2");
    assert_eq!(rebase(&["--verify", "--stats", "-b", ""])["detached"], true);
}

#[test]
fn plans_of_every_kind_fit() {
    if without_kvm("plans_of_every_kind_fit") {
        return;
    }
    let (plan, measure) = (strict("plan"), strict("measure"));
    for (command, options) in
        [("commit", &["-d"][..]), ("rebase", &["-b", ""]), ("rebase", &["-u", "-b", "gone", "-F", "raw"])]
    {
        let folder = pair();
        let said = |more: &[&str]| {
            output(&folder, &[&["plan", command, "--output=json"], more, options, &["top.qcow2"]].concat())
        };
        let planned = read(&plan, &said(&[]));
        assert_eq!(planned["command"], command);
        assert_eq!(planned["layers"][0]["filename"], "top.qcow2");
        assert!(planned["map"]["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{options:?}");
        let measured = read(&measure, &said(&["--measure"]));
        let written = if command == "commit" { "base.qcow2" } else { "top.qcow2" };
        assert_eq!(measured[0]["filename"], written, "{options:?}");
    }
}

#[test]
fn what_the_doctor_finds_fits() {
    let schema = strict("doctor");
    let folder = Folder::new();
    for options in [&[][..], &["--sandbox", "process"], &["nosuch"]] {
        let ended = folder.run(&[&["doctor", "--output=json"], options].concat());
        let said = read(&schema, &ended.stdout);
        assert_eq!(said["fit"], ended.status == Some(0), "{options:?}");
    }
}
