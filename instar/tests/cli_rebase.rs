//! `instar rebase` on small images, through the real sandbox: what is said and what is changed.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use common::{Ended, Folder};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;

fn success(stdout: &str) -> Ended {
    Ended { status: Some(0), stdout: stdout.to_owned(), stderr: String::new() }
}

/// An image that holds nothing itself.
fn hollow(backing: &str, backing_format: &str) -> Vec<u8> {
    let mut bytes = qcow2(0, backing, backing_format);
    bytes[4 * CLUSTER_BYTES..][..8].fill(0);
    bytes.truncate(5 * CLUSTER_BYTES);
    bytes[2 * CLUSTER_BYTES + 10..][..2].fill(0);
    bytes
}

/// A hollow overlay on a base, and other files that it could be based on.
fn stage() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("same.qcow2", &qcow2(0xbb, "", ""));
    folder.file("other.qcow2", &qcow2(0x0f, "", ""));
    folder.file("mid.qcow2", &hollow("base.qcow2", "qcow2"));
    folder.file("overlay.qcow2", &hollow("base.qcow2", "qcow2"));
    folder
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).expect("the file is there")
}

/// The table entry of the overlay's first cluster.
fn first_entry(folder: &Folder) -> u64 {
    let overlay = read(folder, "overlay.qcow2");
    u64::from_be_bytes(overlay[4 * CLUSTER_BYTES..][..8].try_into().expect("eight bytes"))
}

/// The first byte of the overlay's first cluster, which it holds itself.
fn first_byte(folder: &Folder) -> u8 {
    let offset = usize::try_from(first_entry(folder) & 0x00ff_ffff_ffff_fe00).expect("a small image");
    assert_ne!(offset, 0, "the overlay holds nothing");
    read(folder, "overlay.qcow2")[offset]
}

fn is_hollow(folder: &Folder) -> bool {
    first_entry(folder) == 0
}

fn names(folder: &Folder, name: &str) -> bool {
    read(folder, "overlay.qcow2")[..CLUSTER_BYTES].windows(name.len()).any(|window| window == name.as_bytes())
}

#[test]
fn a_safe_rebase_carries_over_what_differs() {
    if without_kvm("a_safe_rebase_carries_over_what_differs") {
        return;
    }
    let folder = stage();
    assert_eq!(folder.run(&["rebase", "-b", "other.qcow2", "-F", "qcow2", "overlay.qcow2"]), success(""));
    assert_eq!(first_byte(&folder), 0xbb);
    assert!(names(&folder, "other.qcow2") && !names(&folder, "base.qcow2"));
}

#[test]
fn what_reads_the_same_is_not_copied() {
    if without_kvm("what_reads_the_same_is_not_copied") {
        return;
    }
    // Equal content in another file, the same chain by another name, and a member of the new backing file's own chain.
    for name in ["same.qcow2", "./base.qcow2", "mid.qcow2"] {
        let folder = stage();
        let length = read(&folder, "overlay.qcow2").len();
        assert_eq!(folder.run(&["rebase", "-b", name, "-B", "qcow2", "overlay.qcow2"]), success(""));
        assert!(is_hollow(&folder) && names(&folder, name), "{name}");
        assert_eq!(read(&folder, "overlay.qcow2").len(), length);
    }
}

#[test]
fn detaching_keeps_what_the_base_held() {
    if without_kvm("detaching_keeps_what_the_base_held") {
        return;
    }
    for options in [&["-b", ""][..], &["-c", "-b", ""], &["-t", "directsync", "-r", "1M", "-b", ""]] {
        let folder = stage();
        let arguments = [&["rebase", "--output", "json"], options, &["overlay.qcow2"]].concat();
        let json = r#"{
    "overlay": "overlay.qcow2",
    "overlay_format": "qcow2",
    "mode": "safe",
    "clusters_copied": 1,
    "bytes_copied": 512,
    "detached": true
}
"#;
        assert_eq!(folder.run(&arguments), success(json));
        assert!(!is_hollow(&folder) && !names(&folder, "base.qcow2"));
    }
}

#[test]
fn an_unsafe_rebase_looks_at_no_other_file() {
    if without_kvm("an_unsafe_rebase_looks_at_no_other_file") {
        return;
    }
    let folder = stage();
    let before = read(&folder, "overlay.qcow2");
    let json = r#"{
    "overlay": "overlay.qcow2",
    "overlay_format": "qcow2",
    "mode": "unsafe",
    "clusters_copied": 0,
    "bytes_copied": 0,
    "new_backing": "/nowhere/at \"all\".qcow2"
}
"#;
    let name = "/nowhere/at \"all\".qcow2";
    assert_eq!(folder.run(&["rebase", "-u", "-b", name, "-F", "raw", "--output=json", "overlay.qcow2"]), success(json));
    assert!(names(&folder, name));
    assert_eq!(read(&folder, "overlay.qcow2")[CLUSTER_BYTES..], before[CLUSTER_BYTES..]);
    assert_eq!(folder.run(&["rebase", "-u", "-F", "raw", "overlay.qcow2"]), success(""));
    assert!(!names(&folder, name));
}

#[test]
fn progress_is_shown_unless_quiet() {
    if without_kvm("progress_is_shown_unless_quiet") {
        return;
    }
    let shown = stage().run(&["rebase", "-p", "-b", "other.qcow2", "-F", "qcow2", "overlay.qcow2"]).stdout;
    assert!(shown.starts_with("    (0.00/100%)\r") && shown.ends_with("    (100.00/100%)\r\n"), "{shown}");
    assert_eq!(stage().run(&["rebase", "-p", "-q", "-b", "", "overlay.qcow2"]), success(""));
}

#[test]
fn every_refusal_has_its_sentence_and_changes_nothing() {
    if without_kvm("every_refusal_has_its_sentence_and_changes_nothing") {
        return;
    }
    let folder = stage();
    folder.file("plain.raw", &[7; 4096]);
    folder.file("outside/link.qcow2", &hollow("/etc/passwd", "raw"));
    let long = "n".repeat(377);
    let longer = "n".repeat(1024);
    for (arguments, message) in [
        (
            &["-b", "other.qcow2"][..],
            "Could not change the backing file to 'other.qcow2': backing format must be specified",
        ),
        (&["-b", "other.qcow2", "-F", "nosuch"], "Invalid format name: 'nosuch'"),
        (
            &["-b", "nope.qcow2", "-F", "qcow2"],
            "Could not open new backing file 'nope.qcow2': Could not open 'nope.qcow2': No such file or directory",
        ),
        (
            &["-b", "plain.raw", "-F", "qcow2"],
            "Could not open new backing file 'plain.raw': Image is not in qcow2 format",
        ),
        (&["-b", "nosuch:x", "-F", "qcow2"], "Could not open new backing file 'nosuch:x': Unknown protocol 'nosuch'"),
        (
            &["-b", "overlay.qcow2", "-F", "qcow2"],
            "Could not open new backing file 'overlay.qcow2': Failed to get shared \"write\" lock\nIs another process using the image [overlay.qcow2]?",
        ),
        (
            &["-b", "base.qcow2", "-F", "raw"],
            "Could not change the backing file to 'base.qcow2': The image is part of the present chain as qcow2, not raw",
        ),
        (
            &["-b", "outside/link.qcow2", "-F", "qcow2"],
            "Could not open new backing file 'outside/link.qcow2': Could not open backing file: The image names '/etc/passwd', which is outside of the directories that may be used; --allow-dir DIR allows a directory, --allow-any-path every file",
        ),
        (
            &["-u", "-b", &long, "-F", "qcow2"],
            &format!("Could not change the backing file to '{long}': No space left in the file header"),
        ),
        (
            &["-u", "-b", &longer, "-F", "qcow2"],
            &format!("Could not change the backing file to '{longer}': Invalid argument"),
        ),
        (
            &["-u", "-b", "a\u{1b}[2Jb", "-f", "raw", "-F", "raw"],
            "Could not change the backing file to 'a\\x1b[2Jb': Operation not supported",
        ),
        (&["-u", "-f", "raw"], "Could not change the backing file to '(null)': Operation not supported"),
        (&["-c", "-f", "raw", "-b", ""], "Compression not supported for this file format"),
        (&["-t", "bogus", "-b", ""], "Invalid cache option: bogus"),
        (&["-T", "bogus", "-b", ""], "Invalid source cache option: bogus"),
        (&["-r", "1x", "-b", ""], "Invalid rate limit specified: '1x'"),
    ] {
        let all = [&["rebase"], arguments, &["overlay.qcow2"]].concat();
        folder.fails(&all, &format!("instar: {message}"));
    }
}

#[test]
fn a_new_backing_file_that_is_based_on_the_overlay_is_refused() {
    if without_kvm("a_new_backing_file_that_is_based_on_the_overlay_is_refused") {
        return;
    }
    let folder = stage();
    folder.file("above.qcow2", &hollow("overlay.qcow2", "qcow2"));
    let message = "instar: Could not open new backing file 'above.qcow2': Could not open backing file: \
                   Failed to get shared \"write\" lock\nIs another process using the image [overlay.qcow2]?";
    folder.fails(&["rebase", "-b", "above.qcow2", "-F", "qcow2", "overlay.qcow2"], message);
}
