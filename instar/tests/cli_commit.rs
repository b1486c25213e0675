//! `instar commit` and `instar info` on small images, through the real sandbox: what is said and what is changed.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use common::{Ended, Folder, finish};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;

const FORBIDDEN: &str = "is outside of the directories that may be used; --allow-dir DIR allows a directory, \
                         --allow-any-path every file";

fn success(stdout: &str) -> Ended {
    Ended { status: Some(0), stdout: stdout.to_owned(), stderr: String::new() }
}

/// An overlay that covers the first cluster, on a base that has another content there.
fn pair() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).expect("the file is there")
}

fn first_data_byte(folder: &Folder, name: &str) -> u8 {
    read(folder, name)[5 * CLUSTER_BYTES]
}

#[test]
fn committing_writes_the_base_and_empties_the_overlay() {
    if without_kvm("committing_writes_the_base_and_empties_the_overlay") {
        return;
    }
    let folder = pair();
    assert_eq!(folder.run(&["commit", "overlay.qcow2"]), success("Image committed.\n"));
    assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x11);
    assert_eq!(read(&folder, "overlay.qcow2").len(), 4 * CLUSTER_BYTES);
}

#[test]
fn drop_and_base_leave_the_overlay_alone() {
    if without_kvm("drop_and_base_leave_the_overlay_alone") {
        return;
    }
    for options in [&["-d"][..], &["-b", "base.qcow2"], &["-b", "./base.qcow2", "-d"]] {
        let folder = pair();
        let overlay = read(&folder, "overlay.qcow2");
        let arguments = [&["commit"], options, &["overlay.qcow2"]].concat();
        assert_eq!(folder.run(&arguments), success("Image committed.\n"));
        assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x11);
        assert_eq!(read(&folder, "overlay.qcow2"), overlay);
    }
}

#[test]
fn the_result_can_be_had_as_json_or_not_at_all() {
    if without_kvm("the_result_can_be_had_as_json_or_not_at_all") {
        return;
    }
    let json = r#"{
    "overlay": "overlay.qcow2",
    "overlay_format": "qcow2",
    "backing": "base.qcow2",
    "backing_format": "qcow2",
    "clusters_committed": 1,
    "bytes_committed": 512,
    "overlay_clusters_cleared": 1
}
"#;
    assert_eq!(pair().run(&["commit", "--output", "json", "overlay.qcow2"]), success(json));
    assert_eq!(pair().run(&["commit", "-p", "-q", "overlay.qcow2"]), success(""));
    let shown = pair().run(&["commit", "-p", "overlay.qcow2"]).stdout;
    assert!(
        shown.starts_with("    (0.00/100%)\r") && shown.ends_with("    (100.00/100%)\r\nImage committed.\n"),
        "{shown}"
    );
}

#[test]
fn a_deeper_base_receives_everything_above_it() {
    if without_kvm("a_deeper_base_receives_everything_above_it") {
        return;
    }
    let folder = pair();
    folder.file("top.qcow2", &qcow2(0x22, "overlay.qcow2", "qcow2"));
    let between = read(&folder, "overlay.qcow2");
    assert_eq!(folder.run(&["commit", "-b", "base.qcow2", "top.qcow2"]), success("Image committed.\n"));
    assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x22);
    assert_eq!(read(&folder, "overlay.qcow2"), between);
}

#[test]
fn chains_without_the_base_in_question_are_refused() {
    if without_kvm("chains_without_the_base_in_question_are_refused") {
        return;
    }
    let folder = pair();
    folder.fails(&["commit", "base.qcow2"], "instar: Image does not have a backing file");
    folder.fails(&["commit", "-f", "raw", "overlay.qcow2"], "instar: Image does not have a backing file");
    for base in ["nope.qcow2", "overlay.qcow2", "", "-"] {
        let message = format!("instar: Did not find '{base}' in the backing chain of 'overlay.qcow2'");
        folder.fails(&["commit", "-b", base, "overlay.qcow2"], &message);
    }
    std::fs::remove_file(folder.path().join("base.qcow2")).expect("it was there");
    folder.fails(
        &["commit", "overlay.qcow2"],
        "instar: Could not open 'overlay.qcow2': Could not open backing file: Could not open 'base.qcow2': No such file or directory",
    );
}

#[test]
fn loops_end_at_the_lock_of_the_overlay() {
    if without_kvm("loops_end_at_the_lock_of_the_overlay") {
        return;
    }
    let folder = Folder::new();
    folder.file("a.qcow2", &qcow2(1, "b.qcow2", "qcow2"));
    folder.file("b.qcow2", &qcow2(2, "a.qcow2", "qcow2"));
    folder.fails(
        &["commit", "a.qcow2"],
        "instar: Could not open 'a.qcow2': Could not open backing file: Could not open backing file: \
         Failed to get shared \"write\" lock\nIs another process using the image [a.qcow2]?",
    );
    folder.fails(&["info", "--backing-chain", "a.qcow2"], "instar: Backing file 'a.qcow2' creates an infinite loop.");
}

#[test]
fn formats_are_not_guessed_where_it_matters() {
    if without_kvm("formats_are_not_guessed_where_it_matters") {
        return;
    }
    let folder = pair();
    folder.file("text", b"no image");
    folder.fails(
        &["commit", "text"],
        "WARNING: Image format was not specified for 'text' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions.\ninstar: Image does not have a backing file",
    );
    folder.file("base.raw", &[0; 64 * CLUSTER_BYTES]);
    folder.file("probed.qcow2", &qcow2(0x11, "base.raw", ""));
    folder.fails(
        &["commit", "probed.qcow2"],
        "instar: 'base.raw': Its format is not recorded and probing guessed raw; writing to it is refused. \
         Record the format first (instar rebase -u -b NAME -F raw FILE), or take it for raw with --force",
    );
    assert_eq!(folder.run(&["commit", "--force", "probed.qcow2"]), success("Image committed.\n"));
    assert_eq!(read(&folder, "base.raw")[0], 0x11);
    folder.file("base.raw", &[0; 64 * CLUSTER_BYTES]);
    folder.file("recorded.qcow2", &qcow2(0x11, "base.raw", "raw"));
    assert_eq!(folder.run(&["commit", "recorded.qcow2"]), success("Image committed.\n"));
    assert_eq!(read(&folder, "base.raw")[..=CLUSTER_BYTES], [&[0x11; CLUSTER_BYTES][..], &[0]].concat());
    folder.file("wrong.qcow2", &qcow2(0x11, "base.raw", "qcow2"));
    folder.fails(
        &["commit", "wrong.qcow2"],
        "instar: Could not open 'wrong.qcow2': Could not open backing file: Image is not in qcow2 format",
    );
    folder.file("odd.qcow2", &qcow2(0x11, "base.raw", "nosuch"));
    folder.fails(
        &["commit", "odd.qcow2"],
        "instar: Could not open 'odd.qcow2': Could not open backing file: Unknown driver 'nosuch'",
    );
}

#[test]
fn names_outside_of_the_overlays_directory_need_permission() {
    if without_kvm("names_outside_of_the_overlays_directory_need_permission") {
        return;
    }
    let folder = Folder::new();
    let base = folder.file("images/base.qcow2", &qcow2(0xbb, "", ""));
    let restore = || folder.file("vm/overlay.qcow2", &qcow2(0x11, "../images/base.qcow2", "qcow2"));
    restore();
    let refusal = format!(
        "instar: Could not open 'vm/overlay.qcow2': Could not open backing file: The image names '../images/base.qcow2', which {FORBIDDEN}"
    );
    folder.fails(&["commit", "vm/overlay.qcow2"], &refusal);
    folder.fails(&["commit", "--allow-dir", "vm", "vm/overlay.qcow2"], &refusal);
    let not_found = "instar: Did not find 'images/base.qcow2' in the backing chain of 'vm/overlay.qcow2'";
    folder.fails(&["commit", "--allow-dir", "images", "-b", "images/base.qcow2", "vm/overlay.qcow2"], not_found);
    let base_name = base.to_str().expect("UTF-8");
    let by_name = ["-b", "../images/base.qcow2"];
    let by_path = ["-b", base_name];
    for allowed in [&["--allow-dir", "images"][..], &["--allow-any-path"], &by_name, &by_path] {
        restore();
        let ended = folder.run(&[&["commit"], allowed, &["vm/overlay.qcow2"]].concat());
        assert_eq!(ended, success("Image committed.\n"), "{allowed:?}");
    }
    restore();
    let mut command = folder.instar(&["commit", "vm/overlay.qcow2"]);
    assert_eq!(finish(command.env("INSTAR_ALLOW_DIRS", ":/nothing:images")), success("Image committed.\n"));
    std::fs::remove_file(base).expect("it was there");
    folder.fails(&["commit", "vm/overlay.qcow2"], &refusal);
    folder.fails(
        &["commit", "--allow-dir", "nothing", "vm/overlay.qcow2"],
        "instar: Could not open 'nothing': No such file or directory",
    );
}

#[test]
fn info_opens_only_what_it_is_told_to() {
    if without_kvm("info_opens_only_what_it_is_told_to") {
        return;
    }
    let folder = Folder::new();
    folder.file("overlay.qcow2", &qcow2(0x11, "/nothing/base.qcow2", "qcow2"));
    let ended = folder.run(&["info", "overlay.qcow2"]);
    assert_eq!(ended.status, Some(0));
    assert!(
        ended.stdout.starts_with("image: overlay.qcow2\nfile format: qcow2\nvirtual size: 32 KiB (32768 bytes)\n"),
        "{}",
        ended.stdout
    );
    let ended = folder.run(&["info", "--output", "json", "--qemu-version", "6.0.0", "overlay.qcow2"]);
    assert!(ended.stdout.contains("\"full-backing-filename\": \"/nothing/base.qcow2\""), "{}", ended.stdout);
    folder.fails(
        &["info", "--backing-chain", "overlay.qcow2"],
        &format!(
            "instar: Could not open '/nothing/base.qcow2': The image names '/nothing/base.qcow2', which {FORBIDDEN}"
        ),
    );
    let folder = pair();
    let shown = folder.run(&["info", "--backing-chain", "overlay.qcow2"]).stdout;
    assert_eq!(shown.matches("image: ").count(), 2, "{shown}");
}

/// A qemu-io that has an image open until it is dropped, or nothing where qemu-io is not installed.
struct Holder(Child);

impl Holder {
    fn of(folder: &Folder, options: &[&str], image: &str, test: &str) -> Option<Self> {
        let mut command = Command::new("qemu-io");
        command.current_dir(folder.path()).args(options).args(["-f", "qcow2", image]);
        let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("{test}: not run, qemu-io is not installed");
            return None;
        };
        writeln!(child.stdin.as_mut().expect("a pipe"), "length").expect("it listens");
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut answer).expect("it answers");
        assert!(answer.contains("32 KiB"), "{answer}");
        Some(Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn images_that_a_virtual_machine_has_open_are_refused() {
    let test = "images_that_a_virtual_machine_has_open_are_refused";
    if without_kvm(test) {
        return;
    }
    let hint = |image: &str| format!("Is another process using the image [{image}]?");
    let folder = pair();
    let Some(holder) = Holder::of(&folder, &["-r"], "base.qcow2", test) else { return };
    folder
        .fails(&["commit", "overlay.qcow2"], &format!("instar: Failed to get \"write\" lock\n{}", hint("base.qcow2")));
    drop(holder);
    let Some(holder) = Holder::of(&folder, &[], "base.qcow2", test) else { return };
    folder.fails(
        &["commit", "overlay.qcow2"],
        &format!(
            "instar: Could not open 'overlay.qcow2': Could not open backing file: Failed to get shared \"write\" lock\n{}",
            hint("base.qcow2")
        ),
    );
    drop(holder);
    let Some(holder) = Holder::of(&folder, &[], "overlay.qcow2", test) else { return };
    folder.fails(
        &["commit", "overlay.qcow2"],
        &format!("instar: Could not open 'overlay.qcow2': Failed to get \"write\" lock\n{}", hint("overlay.qcow2")),
    );
    folder.fails(
        &["info", "overlay.qcow2"],
        &format!(
            "instar: Could not open 'overlay.qcow2': Failed to get shared \"write\" lock\n{}",
            hint("overlay.qcow2")
        ),
    );
    assert_eq!(folder.run(&["info", "-U", "overlay.qcow2"]).status, Some(0));
    drop(holder);
    assert_eq!(folder.run(&["commit", "overlay.qcow2"]), success("Image committed.\n"));
}
