//! Errors for programs: each kind of failure has its code, names its file, and stands on one line of standard error.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/schema.rs"]
mod schema;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::Folder;
use image::qcow2;
use instar::code::Code;
use instar::files::{Access, open_operand};
use kvm::without_kvm;
use schema::{published, read, strict};
use serde_json::Value;

/// A failing command's code and file, out of JSON that fits its schema. Nothing else may be said, and no file be changed.
#[track_caller]
fn fails(folder: &Folder, arguments: &[&str]) -> (String, Option<String>) {
    let ended = folder.run(arguments);
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{arguments:?}: {}", ended.stderr);
    let told = read(&strict("error"), &ended.stderr);
    let member = |name: &str| told[name].as_str().map(str::to_owned);
    (member("code").expect("a code"), member("file"))
}

#[track_caller]
fn code(folder: &Folder, arguments: &[&str], code: &str, file: Option<&str>) {
    assert_eq!(fails(folder, arguments), (code.to_owned(), file.map(str::to_owned)), "{arguments:?}");
}

fn commit<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["commit", "--output=json"], words].concat()
}

fn rebase<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["rebase", "--output=json"], words].concat()
}

#[test]
fn schema_and_page_list_every_code_and_no_other() {
    let names: Vec<Value> = Code::all().map(|code| code.name().into()).collect();
    assert_eq!(published("error")["properties"]["code"]["enum"], Value::Array(names));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/messages.md");
    let page = fs::read_to_string(page).expect("the page");
    let listed: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(listed, Code::all().map(Code::name).collect::<Vec<_>>());
}

#[test]
fn what_needs_no_sandbox_has_its_code() {
    let folder = Folder::new();
    folder.file("plain", b"");
    fs::create_dir(folder.path().join("dir")).expect("a directory");
    code(&folder, &commit(&["--bogus", "a"]), "usage", None);
    code(&folder, &commit(&[]), "usage", None);
    code(&folder, &commit(&["-t", "bogus", "a"]), "usage", Some("a"));
    code(&folder, &commit(&["a"]), "not-found", Some("a"));
    code(&folder, &commit(&["dir"]), "not-a-file", Some("dir"));
    code(&folder, &commit(&["nosuch:a"]), "not-local", Some("nosuch:a"));
    code(&folder, &commit(&["-f", "nosuch", "a"]), "unsupported-format", Some("a"));
    code(&folder, &commit(&["--object", "secret,id=a,file=key", "plain"]), "not-found", Some("key"));
    code(&folder, &["rebase", "--output", "json", "plain"], "usage", Some("plain"));
    code(&folder, &["rebase", "--output=json", "-b", "b", "-F", "nosuch", "a"], "not-found", Some("a"));
}

#[test]
fn info_tells_errors_as_qemu_img_does_unless_asked() {
    let folder = Folder::new();
    let words = "instar: Could not open 'a': Could not open 'a': No such file or directory";
    folder.fails(&["info", "--output=json", "a"], words);
    folder.fails(&["info", "--output=json", "--errors=human", "a"], words);
    folder.fails(&["commit", "--output=json", "--errors=human", "a"], words);
    code(&folder, &["info", "--errors=json", "a"], "not-found", Some("a"));
    code(&folder, &["commit", "--errors", "json", "a"], "not-found", Some("a"));
    let usage = "instar: --errors expects 'human' or 'json', not 'xml'\nTry 'instar info --help' for more information";
    folder.fails(&["info", "--errors=xml", "a"], usage);
}

#[test]
fn somebody_else_and_somebody_elses_files_have_their_codes() {
    let folder = Folder::new();
    let path = folder.file("top.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    let held = open_operand(path.as_os_str().as_encoded_bytes(), Access::Write).expect("opens");
    code(&folder, &["commit", "--output=json", "top.qcow2"], "image-in-use", Some("top.qcow2"));
    drop(held);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("permissions");
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("somebody_else_and_somebody_elses_files_have_their_codes: this user may write every file");
        return;
    }
    code(&folder, &["commit", "--output=json", "top.qcow2"], "permission-denied", Some("top.qcow2"));
}

#[test]
fn what_images_say_has_its_code() {
    if without_kvm("what_images_say_has_its_code") {
        return;
    }
    let folder = Folder::new();
    let sound = qcow2(0x11, "", "");
    let changed = |offset: usize, bytes: &[u8]| {
        let mut image = sound.clone();
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
        image
    };
    folder.file("base.qcow2", &sound);
    folder.file("version9.qcow2", &changed(4, &9u32.to_be_bytes()));
    folder.file("feature.qcow2", &changed(72, &(1u64 << 40).to_be_bytes()));
    folder.file("corrupt.qcow2", &changed(72, &2u64.to_be_bytes()));
    folder.file("clusters.qcow2", &changed(20, &40u32.to_be_bytes()));
    folder.file("top.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    folder.file("lost.qcow2", &qcow2(0x22, "gone.qcow2", "qcow2"));
    folder.file("circle.qcow2", &qcow2(0x22, "left.qcow2", "qcow2"));
    folder.file("left.qcow2", &qcow2(0x22, "right.qcow2", "qcow2"));
    folder.file("right.qcow2", &qcow2(0x22, "left.qcow2", "qcow2"));
    folder.file("deep/top.qcow2", &qcow2(0x22, "../base.qcow2", "qcow2"));
    folder.file("remote.qcow2", &qcow2(0x22, "nbd://host/x", "raw"));
    folder.file("text", b"no image");
    folder.file("on-text.qcow2", &qcow2(0x22, "text", ""));
    code(&folder, &commit(&["base.qcow2"]), "no-backing", Some("base.qcow2"));
    code(&folder, &commit(&["-b", "other", "top.qcow2"]), "not-in-chain", Some("top.qcow2"));
    code(&folder, &commit(&["version9.qcow2"]), "unsupported-format", Some("version9.qcow2"));
    code(&folder, &commit(&["feature.qcow2"]), "unsupported-format", Some("feature.qcow2"));
    code(&folder, &commit(&["clusters.qcow2"]), "invalid-image", Some("clusters.qcow2"));
    code(&folder, &commit(&["-f", "qcow2", "text"]), "invalid-image", Some("text"));
    code(&folder, &commit(&["corrupt.qcow2"]), "corrupt-image", Some("corrupt.qcow2"));
    code(&folder, &commit(&["lost.qcow2"]), "not-found", Some("gone.qcow2"));
    code(&folder, &commit(&["circle.qcow2"]), "backing-loop", Some("left.qcow2"));
    code(&folder, &commit(&["deep/top.qcow2"]), "policy", Some("../base.qcow2"));
    code(&folder, &commit(&["remote.qcow2"]), "not-local", Some("nbd://host/x"));
    code(&folder, &commit(&["on-text.qcow2"]), "refused", Some("text"));
    code(&folder, &rebase(&["-b", "gone", "-F", "raw", "top.qcow2"]), "not-found", Some("gone"));
    code(&folder, &rebase(&["-u", "-b", "base.qcow2", "top.qcow2"]), "backing-not-recorded", Some("top.qcow2"));
}

#[test]
fn other_overlays_are_a_reason_and_warnings_come_before_it() {
    if without_kvm("other_overlays_are_a_reason_and_warnings_come_before_it") {
        return;
    }
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0x11, "", ""));
    folder.file("top.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    folder.file("sibling.qcow2", &qcow2(0x33, "base.qcow2", "qcow2"));
    code(&folder, &commit(&["--check-siblings", ".", "top.qcow2"]), "other-overlays", Some("base.qcow2"));
    folder.file("broken.qcow2", b"QFI\xfb and no more");
    let ended = folder.run(&commit(&["--check-siblings", ".", "top.qcow2"]));
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].starts_with("instar: warning: Could not tell what './broken.qcow2' is based on: "), "{lines:?}");
    assert_eq!((lines.len(), &read(&strict("error"), lines[1])["code"]), (2, &"other-overlays".into()));
}
