//! `--verify` and `--stats` through the real sandbox: what is said, what is changed, and that a disk which does not keep what was
//! written is found out.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/trace.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod trace;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use common::{Ended, Folder};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;
use nix::sys::wait::WaitStatus;

const LAST_OF_INCOMPATIBLE_FEATURES: usize = 79;

/// An overlay that covers the first cluster, on a base that has another content there, and another base.
fn stage() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("other.qcow2", &qcow2(0x0f, "", ""));
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    // This one holds nothing itself.
    let mut hollow = qcow2(0, "base.qcow2", "qcow2");
    hollow[4 * CLUSTER_BYTES..][..8].fill(0);
    hollow.truncate(5 * CLUSTER_BYTES);
    hollow[2 * CLUSTER_BYTES + 10..][..2].fill(0);
    folder.file("hollow.qcow2", &hollow);
    folder.file("disk", &[7; 64 * CLUSTER_BYTES]);
    folder.file("on-raw.qcow2", &qcow2(0x11, "disk", "raw"));
    folder
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).expect("the file is there")
}

fn json(ended: &Ended) -> serde_json::Value {
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The numbers that are told to people, by their names.
fn told(ended: &Ended, name: &str) -> u64 {
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {}", ended.stderr))
}

#[test]
fn what_a_commit_took_is_told_apart_from_its_result() {
    if without_kvm("what_a_commit_took_is_told_apart_from_its_result") {
        return;
    }
    let ended = stage().run(&["commit", "--stats", "overlay.qcow2"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "Image committed.\n"));
    assert_eq!(
        (told(&ended, "sandboxes"), told(&ended, "copied bytes")),
        (3, CLUSTER_BYTES as u64),
        "{}",
        ended.stderr
    );
    assert!(told(&ended, "exits") > told(&ended, "barriers") && told(&ended, "barriers") >= 2, "{}", ended.stderr);
    assert!(told(&ended, "read bytes") > 0 && told(&ended, "written bytes") > 0, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("started in").count(), 3);

    let value = json(&stage().run(&["commit", "--stats", "--output", "json", "overlay.qcow2"]));
    let stats = &value["stats"];
    assert_eq!((&stats["copied_bytes"], &value["clusters_committed"]), (&512.into(), &1.into()));
    let sandboxes = stats["sandboxes"].as_array().expect("a list");
    let jobs: Vec<_> = sandboxes.iter().map(|sandbox| sandbox["job"].as_str().expect("a name")).collect();
    assert_eq!(jobs, ["info", "info", "commit"]);
    let exits: u64 = sandboxes.iter().map(|sandbox| sandbox["exits"].as_u64().expect("a number")).sum();
    assert_eq!(stats["exits"], exits);
    let total = stats["total_seconds"].as_f64().expect("a number");
    assert!(sandboxes.iter().all(|sandbox| sandbox["run_seconds"].as_f64().expect("a number") < total), "{stats}");

    let quiet = stage().run(&["commit", "-q", "--stats", "overlay.qcow2"]);
    assert_eq!(quiet, Ended { status: Some(0), stdout: String::new(), stderr: String::new() });
}

#[test]
fn rebase_and_info_tell_it_too() {
    if without_kvm("rebase_and_info_tell_it_too") {
        return;
    }
    let folder = stage();
    let ended = folder.run(&["rebase", "--stats", "-b", "other.qcow2", "-F", "qcow2", "hollow.qcow2"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), ""));
    assert_eq!((told(&ended, "sandboxes"), told(&ended, "compared bytes")), (4, CLUSTER_BYTES as u64));
    // A new header for a plain image takes one sandbox; where there is more to do, others follow.
    let mut dirty = read(&folder, "hollow.qcow2");
    dirty[LAST_OF_INCOMPATIBLE_FEATURES] |= 1;
    folder.file("dirty.qcow2", &dirty);
    for (name, sandboxes) in [("hollow.qcow2", 1), ("dirty.qcow2", 3)] {
        let ended = folder.run(&["rebase", "-u", "--stats", "-b", "", name]);
        assert_eq!((ended.status, told(&ended, "sandboxes")), (Some(0), sandboxes), "{name}: {}", ended.stderr);
    }
    let plain = folder.run(&["info", "--output", "json", "overlay.qcow2"]);
    let ended = folder.run(&["info", "--stats", "--output", "json", "overlay.qcow2"]);
    assert_eq!((ended.status, &ended.stdout), (Some(0), &plain.stdout));
    assert_eq!((told(&ended, "sandboxes"), told(&ended, "writes")), (1, 0));
}

#[test]
fn a_verified_commit_is_the_same_commit() {
    if without_kvm("a_verified_commit_is_the_same_commit") {
        return;
    }
    for options in
        [&["overlay.qcow2"][..], &["-d", "overlay.qcow2"], &["--delete-overlay", "overlay.qcow2"], &["on-raw.qcow2"]]
    {
        let (plain, careful) = (stage(), stage());
        json(&plain.run(&[&["commit", "--output", "json"], options].concat()));
        let value = json(&careful.run(&[&["commit", "--verify", "--stats", "--output", "json"], options].concat()));
        assert_eq!(value["verified"], true);
        // Two images are looked at; then come digesting, copying, comparing, and emptying where that is wanted.
        let is_emptied = options.len() == 1;
        assert_eq!(
            value["stats"]["sandboxes"].as_array().map(Vec::len),
            Some(5 + usize::from(is_emptied)),
            "{options:?}"
        );
        assert_eq!(value["overlay_clusters_cleared"], u64::from(is_emptied), "{options:?}");
        for name in ["overlay.qcow2", "base.qcow2", "on-raw.qcow2", "disk"] {
            let files = [&plain, &careful].map(|folder| fs::read(folder.path().join(name)).ok());
            assert!(files[0] == files[1], "{options:?}: {name}");
        }
    }
    let progress = stage().run(&["commit", "--verify", "-p", "overlay.qcow2"]);
    assert_eq!(progress, stage().run(&["commit", "-p", "overlay.qcow2"]));
}

#[test]
fn a_verified_rebase_is_the_same_rebase() {
    if without_kvm("a_verified_rebase_is_the_same_rebase") {
        return;
    }
    for options in [&["-b", "other.qcow2", "-F", "qcow2"][..], &["-b", ""], &["-c", "-b", "disk", "-F", "raw"]] {
        let (plain, careful) = (stage(), stage());
        json(&plain.run(&[&["rebase", "--output", "json"], options, &["hollow.qcow2"]].concat()));
        let value =
            json(&careful.run(&[&["rebase", "--verify", "--output", "json"], options, &["hollow.qcow2"]].concat()));
        assert_eq!(value["verified"], true);
        assert!(read(&plain, "hollow.qcow2") == read(&careful, "hollow.qcow2"), "{options:?}");
    }
    let folder = stage();
    folder.fails(
        &["rebase", "--verify", "-u", "-b", "other.qcow2", "-F", "qcow2", "hollow.qcow2"],
        "instar: --verify: with -u no data is compared or copied, so that there is nothing to verify",
    );
}

/// Runs the program; when it drops what it has written from the page cache, to read it from the disk, a byte of a file changes.
fn on_a_disk_that_forgets(
    folder: &Folder,
    arguments: &[&str],
    name: &str,
    byte: impl Fn(&[u8]) -> usize,
) -> (i32, String) {
    let path = folder.path().join(name);
    let mut command = folder.instar(arguments);
    let said = folder.path().join("said");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).expect("a file"));
    let mut changes = 0;
    let trace = trace::run_watched(&mut command, &mut |number| {
        if number == libc::SYS_fadvise64 && changes == 0 {
            changes += 1;
            let bytes = fs::read(&path).expect("a file");
            let at = byte(&bytes);
            let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
            file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("writes");
        }
    });
    assert_eq!(changes, 1, "nothing is dropped from the page cache");
    let Some(WaitStatus::Exited(_, status)) = trace.ended else { panic!("{:?}", trace.ended) };
    (status, fs::read_to_string(said).expect("text"))
}

#[test]
fn a_disk_that_forgets_is_found_out() {
    if without_kvm("a_disk_that_forgets_is_found_out") {
        return;
    }
    let folder = stage();
    let overlay = read(&folder, "overlay.qcow2");
    let (status, said) =
        on_a_disk_that_forgets(&folder, &["commit", "--verify", "overlay.qcow2"], "base.qcow2", |_| {
            5 * CLUSTER_BYTES + 9
        });
    let expected = "instar: 'base.qcow2': Verification failed: within 4096 bytes from byte 0 of the disk on, it reads \
                    differently from what was to be written; 'overlay.qcow2' was not changed and still reads as before: check \
                    the disk, then run the same command again\n";
    assert_eq!((status, said.as_str()), (1, expected));
    assert!(read(&folder, "overlay.qcow2") == overlay, "the overlay has changed");

    let before = read(&folder, "hollow.qcow2");
    let arguments = ["rebase", "--verify", "-b", "other.qcow2", "-F", "qcow2", "hollow.qcow2"];
    // The only data cluster that the overlay has is at its end.
    let (status, said) = on_a_disk_that_forgets(&folder, &arguments, "hollow.qcow2", |bytes| bytes.len() - 5);
    let expected = "instar: 'hollow.qcow2': Verification failed: within 32768 bytes from byte 0 of the disk on, it reads \
                    differently from before; its backing file was not changed. Check the disk and restore the image before it \
                    is used or rebased again\n";
    assert_eq!((status, said.as_str()), (1, expected));
    assert!(read(&folder, "hollow.qcow2")[..CLUSTER_BYTES] == before[..CLUSTER_BYTES], "the header has changed");
}
