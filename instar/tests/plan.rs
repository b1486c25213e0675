//! `instar plan`: what it says, in each of its forms, and that it leaves everything as it is. That its numbers are true for
//! every recorded case is judged by the conformance test `plan_matrix`.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Ended, Folder, finish};
use image::{CLUSTER_BYTES, DISK_BYTES, qcow2};
use instar::files::{Access, open_operand};
use kvm::without_kvm;
use serde_json::{Value, json};

/// The overlay with its first cluster on a base that is empty but for the last one, if it has a cluster at all.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &at_the_end(qcow2(0xbb, "", "")));
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder
}

/// Moves the one allocated cluster of an image from the start of the disk to its end.
fn at_the_end(mut image: Vec<u8>) -> Vec<u8> {
    let table = 4 * CLUSTER_BYTES;
    image.copy_within(table..table + 8, table + 8 * 63);
    image[table..table + 8].fill(0);
    image
}

#[track_caller]
fn told(folder: &Folder, arguments: &[&str]) -> String {
    let Ended { status, stdout, stderr } = folder.run(arguments);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    stdout
}

fn bytes_of(folder: &Folder, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).expect("a file")
}

#[test]
fn a_commit_is_told_in_words_and_a_picture() {
    if without_kvm("a_commit_is_told_in_words_and_a_picture") {
        return;
    }
    let folder = folder();
    let before = (bytes_of(&folder, "overlay.qcow2"), bytes_of(&folder, "base.qcow2"));
    let words = told(&folder, &["plan", "commit", "overlay.qcow2"]);
    assert_eq!((bytes_of(&folder, "overlay.qcow2"), bytes_of(&folder, "base.qcow2")), before);
    let blank = " ".repeat(63);
    let expected = format!(
        "Plan of a commit, nothing was changed: 'base.qcow2' receives 512 bytes of the disk in 1 cluster.

overlay.qcow2
  length        2048 bytes, 1024 fewer than now
  written       520 B (520 bytes) in 1 extent: tables, and data that is unpacked, packed or encrypted

base.qcow2
  length        3584 bytes, 512 more than now
  copied to it  512 B (512 bytes) in 1 extent
  written       1 KiB (1024 bytes) in 2 extents: tables, and data that is unpacked, packed or encrypted

32 KiB of disk, a column is 512 B:
  overlay.qcow2 |█{blank}|
> base.qcow2    |{blank}█|
█ stored  ▓▒░ stored in part  · zeros  (blank) not held: what lies below shows  > is written
"
    );
    // How much is newly stored and freed is the file system's business.
    let same = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("  newly stored") && !line.starts_with("  freed"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(same(&words), expected);
    assert_eq!(told(&folder, &["plan", "commit", "-q", "overlay.qcow2"]), "");
    assert_eq!(told(&folder, &["commit", "overlay.qcow2"]), "Image committed.\n");
    assert_eq!((bytes_of(&folder, "overlay.qcow2").len(), bytes_of(&folder, "base.qcow2").len()), (2048, 3584));
}

#[test]
fn json_has_this_shape() {
    if without_kvm("json_has_this_shape") {
        return;
    }
    let folder = folder();
    let line = ["plan", "commit", "--output", "json", "-b", "base.qcow2", "overlay.qcow2"];
    let mut plan: Value = serde_json::from_str(&told(&folder, &line)).expect("JSON");
    let rows = plan["map"]["rows"].take();
    let stored = plan["files"][0]["newly_stored_bytes"].take();
    assert!(stored.as_u64().is_some_and(|stored| stored <= 512 + 1024), "{stored}");
    plan["files"][0]["freed_bytes"].take();
    let expected = json!({
        "command": "commit",
        "moves": { "bytes": 512, "clusters": 1, "cleared_clusters": 0, "deletes_overlay": false },
        "layers": [
            { "filename": "overlay.qcow2", "format": "qcow2", "virtual_size_bytes": DISK_BYTES, "is_target": false,
              "repairs": 0 },
            { "filename": "base.qcow2", "format": "qcow2", "virtual_size_bytes": DISK_BYTES, "is_target": true,
              "repairs": 0 },
        ],
        "files": [
            { "filename": "base.qcow2", "layer": 1, "length_bytes": 3072, "planned_length_bytes": 3584,
              "copied": { "bytes": 512, "extents": 1 }, "written": { "bytes": 1024, "extents": 2 },
              "zeroed": { "bytes": 0, "extents": 0 }, "released": { "bytes": 0, "extents": 0 },
              "newly_stored_bytes": null, "freed_bytes": null },
        ],
        "map": { "size_bytes": DISK_BYTES, "column_bytes": 512, "rows": null },
    });
    assert_eq!(plan, expected);
    let cell = |bytes: u64| json!({ "data_bytes": bytes, "compressed_bytes": 0, "zero_bytes": 0 });
    let row =
        |stored: usize| Value::from((0..64).map(|at| cell(if at == stored { 512 } else { 0 })).collect::<Vec<_>>());
    assert_eq!(rows, json!([row(0), row(63)]));
}

#[test]
fn a_measure_is_the_length_that_the_command_leaves() {
    if without_kvm("a_measure_is_the_length_that_the_command_leaves") {
        return;
    }
    let folder = folder();
    let words = told(&folder, &["plan", "commit", "--measure", "overlay.qcow2"]);
    assert!(words.starts_with("base.qcow2: 3584 bytes, 512 more than now; "), "{words}");
    let measured = told(&folder, &["plan", "rebase", "--measure", "--output=json", "-b", "", "overlay.qcow2"]);
    let measured: Value = serde_json::from_str(&measured).expect("JSON");
    assert_eq!(told(&folder, &["rebase", "-b", "", "overlay.qcow2"]), "");
    let length = bytes_of(&folder, "overlay.qcow2").len();
    let mut keys: Vec<&String> = measured[0].as_object().expect("an object").keys().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["filename", "length_bytes", "newly_stored_bytes", "planned_length_bytes"]);
    assert_eq!((&measured[0]["filename"], &measured[0]["length_bytes"]), (&json!("overlay.qcow2"), &json!(3072)));
    assert_eq!((measured.as_array().map(Vec::len), &measured[0]["planned_length_bytes"]), (Some(1), &json!(length)));
    assert!(length > 3072, "the rebase has copied a cluster");
}

#[test]
fn the_picture_is_well_formed_and_never_written_over_a_file() {
    if without_kvm("the_picture_is_well_formed_and_never_written_over_a_file") {
        return;
    }
    let folder = Folder::new();
    let name = "a&<b>\u{7}.qcow2";
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file(name, &qcow2(0x11, "base.qcow2", "qcow2"));
    told(&folder, &["plan", "commit", "--svg", "layers.svg", name]);
    let picture = String::from_utf8(bytes_of(&folder, "layers.svg")).expect("UTF-8");
    let document = roxmltree::Document::parse(&picture).expect("well-formed XML");
    let texts: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .filter_map(|node| node.text())
        .collect();
    assert!(texts.contains(&"a&<b>\\x07.qcow2 (qcow2)"), "{texts:?}");
    assert!(texts.contains(&"base.qcow2 (qcow2, is written)"), "{texts:?}");
    let coloured = |colour| document.descendants().filter(|node| node.attribute("fill") == Some(colour)).count();
    assert_eq!(coloured("#2f6db3"), 3, "a cell in each layer, and the legend");
    folder.fails(&["plan", "commit", "--svg", "base.qcow2", name], "instar: Could not write 'base.qcow2': File exists");
}

#[test]
fn a_plan_can_be_made_while_others_read() {
    if without_kvm("a_plan_can_be_made_while_others_read") {
        return;
    }
    let folder = folder();
    let path = folder.path().join("base.qcow2");
    let reader = open_operand(path.as_os_str().as_bytes(), Access::Read).expect("opens");
    folder.fails(
        &["commit", "overlay.qcow2"],
        "instar: Failed to get \"write\" lock\nIs another process using the image [base.qcow2]?",
    );
    told(&folder, &["plan", "commit", "overlay.qcow2"]);
    assert_eq!(processes_in(folder.path()), 0, "something of the plan is left");
    drop(reader);
    let write = || open_operand(path.as_os_str().as_bytes(), Access::Write);
    // A process that another test is starting at this moment has inherited the reader's lock, and keeps it until it begins: with three
    // threads that do nothing else, two of three locks outlive their last close in this process, by up to a tenth of a second.
    let tries = std::iter::repeat_with(write).take(100).inspect(|_| thread::sleep(Duration::from_millis(20)));
    let _writer = tries.filter_map(Result::ok).next().expect("opens");
    folder.fails(
        &["plan", "commit", "overlay.qcow2"],
        "instar: Could not open 'overlay.qcow2': Could not open backing file: Failed to get shared \"write\" lock\n\
         Is another process using the image [base.qcow2]?",
    );
}

/// How many processes have this working directory.
fn processes_in(folder: &Path) -> usize {
    let folder = folder.canonicalize().expect("it exists");
    let processes = fs::read_dir("/proc").expect("processes");
    let directory = |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).ok();
    processes.filter_map(Result::ok).filter_map(directory).filter(|directory| *directory == folder).count()
}

#[test]
fn what_keeps_the_command_keeps_the_plan() {
    let folder = Folder::new();
    let try_help = |command: &str| format!("\nTry 'instar{command} --help' for more information");
    folder.fails(
        &["plan", "commit", "-Z", "a"],
        &format!("instar plan commit: invalid option -- 'Z'{}", try_help(" plan commit")),
    );
    folder.fails(&["plan"], &format!("instar: Not enough arguments{}", try_help("")));
    folder.fails(&["plan", "info", "a"], &format!("instar: Command not found: info{}", try_help("")));
    folder.fails(&["plan", "commit"], &format!("instar: Expecting one image file name{}", try_help(" commit")));
    folder.fails(
        &["plan", "rebase", "a"],
        &format!("instar: Must specify backing file (-b) or use unsafe mode (-u){}", try_help(" rebase")),
    );
    if without_kvm("what_keeps_the_command_keeps_the_plan") {
        return;
    }
    folder.file("alone.qcow2", &qcow2(0x11, "", ""));
    folder.fails(&["plan", "commit", "alone.qcow2"], "instar: Image does not have a backing file");
    folder.file("overlay.qcow2", &qcow2(0x11, "alone.qcow2", "qcow2"));
    let ended = finish(folder.instar(&["plan", "commit", "overlay.qcow2"]).env("TMPDIR", "/nonexistent"));
    let message = "instar: 'overlay.qcow2': could not build the sandbox: making a scratch file in the directory for temporary \
                   files (TMPDIR): No such file or directory (os error 2)\n";
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(1), message));
}

#[test]
fn what_would_be_repaired_first_is_told() {
    if without_kvm("what_would_be_repaired_first_is_told") {
        return;
    }
    let folder = folder();
    let mut base = bytes_of(&folder, "base.qcow2");
    // Marked as not closed properly, and it is forgotten that the data cluster is in use.
    base[79] |= 1;
    base[2 * CLUSTER_BYTES + 10..][..2].fill(0);
    folder.file("base.qcow2", &base);
    let words = told(&folder, &["plan", "commit", "overlay.qcow2"]);
    assert!(words.contains("\n'base.qcow2' was not closed properly; corrected first: 1 entry.\n"), "{words}");
    assert!(words.contains("\n> base.qcow2    |"), "the picture shows it as repaired: {words}");
    assert_eq!(bytes_of(&folder, "base.qcow2"), base);
}

#[test]
fn a_plan_without_a_picture_is_a_plan() {
    if without_kvm("a_plan_without_a_picture_is_a_plan") {
        return;
    }
    let folder = folder();
    // An external data file, which an unsafe rebase does not open: the format's bit for it, and its name, in front of which the
    // backing name has to move.
    let mut overlay = qcow2(0x11, "base.qcow2", "qcow2");
    overlay[79] |= 4;
    overlay[8..16].copy_from_slice(&200u64.to_be_bytes());
    overlay[200..210].copy_from_slice(b"base.qcow2");
    overlay[120..138].fill(0);
    overlay[120..132].copy_from_slice(b"DATA\0\0\0\x04data");
    folder.file("overlay.qcow2", &overlay);
    let line = ["plan", "rebase", "-u", "-b", "other.qcow2", "-F", "qcow2", "overlay.qcow2"];
    let Ended { status, stdout, stderr } = folder.run(&line);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.starts_with("Plan of a rebase, nothing was changed: 'overlay.qcow2'"), "{stdout}");
    let reason = "instar: Could not open 'overlay.qcow2': 'data-file' is required for this image";
    assert_eq!(stderr, format!("{reason}; so there is no picture of the layers\n"));
    let json = told(&folder, &[&["plan", "rebase", "--output=json"], &line[2..]].concat());
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["map"], Value::Null);
}

/// A small file system, which goes with the value.
struct SmallDisk(Folder);

impl SmallDisk {
    /// `None` where none can be mounted.
    fn mount(folder: Folder, size: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }

    fn grow(&self, size: &str) {
        let remounted = Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(self.0.path()).status();
        assert!(remounted.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Makes an overlay with 12 MiB of data on an empty base; tells whether the programs for that are there.
fn large_overlay(folder: &Path) -> bool {
    let run = |program: &str, arguments: &[&str]| {
        let ended = Command::new(program).args(arguments).current_dir(folder).output();
        ended.is_ok_and(|output| output.status.success())
    };
    run("qemu-img", &["create", "-q", "-f", "qcow2", "base.qcow2", "64M"])
        && run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "overlay.qcow2"])
        && run("qemu-io", &["-c", "write 0 12M", "overlay.qcow2"])
}

#[test]
fn a_commit_that_cannot_fit_changes_nothing() {
    let test = "a_commit_that_cannot_fit_changes_nothing";
    if without_kvm(test) {
        return;
    }
    let Some(disk) = SmallDisk::mount(Folder::new(), "size=20M") else {
        eprintln!("{test}: not run, no file system can be mounted");
        return;
    };
    if !large_overlay(disk.0.path()) {
        eprintln!("{test}: not run, qemu-img and qemu-io are not installed");
        return;
    }
    disk.0.fails(
        &["commit", "overlay.qcow2"],
        "instar: 'base.qcow2': No space left on device: the commit needs 12.1 MiB more there, and 7.55 MiB are free. \
         Nothing was changed",
    );
    // As little more as is needed is enough: the disk may not be full, but it may become so.
    disk.grow("size=25700K");
    assert_eq!(told(&disk.0, &["commit", "overlay.qcow2"]), "Image committed.\n");
}
