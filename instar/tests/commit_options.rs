//! `instar commit`: the options that qemu-img does not have, and those that change how files are read and written.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use common::{Ended, Folder};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;

fn success(stdout: &str) -> Ended {
    Ended { status: Some(0), stdout: stdout.to_owned(), stderr: String::new() }
}

fn pair() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder
}

fn chain_of_three() -> Folder {
    let folder = pair();
    folder.file("top.qcow2", &qcow2(0x22, "overlay.qcow2", "qcow2"));
    folder
}

fn first_data_byte(folder: &Folder, name: &str) -> u8 {
    fs::read(folder.path().join(name)).expect("the file is there")[5 * CLUSTER_BYTES]
}

fn length(folder: &Folder, name: &str) -> u64 {
    fs::metadata(folder.path().join(name)).expect("the file is there").len()
}

/// The same image with an internal snapshot that holds nothing itself.
fn with_snapshot(mut image: Vec<u8>) -> Vec<u8> {
    let start = image.len();
    let cluster = |index: usize| (start + index * CLUSTER_BYTES) as u64;
    image.resize(start + 2 * CLUSTER_BYTES, 0);
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(60, &1u32.to_be_bytes());
    put(64, &cluster(0).to_be_bytes());
    put(start, &cluster(1).to_be_bytes());
    put(start + 8, &1u32.to_be_bytes());
    put(start + 12, &[0, 1, 0, 1]);
    put(start + 36, &16u32.to_be_bytes());
    put(start + 48, &image::DISK_BYTES.to_be_bytes());
    put(start + 56, b"1s");
    for index in [start / CLUSTER_BYTES, start / CLUSTER_BYTES + 1] {
        put(2 * CLUSTER_BYTES + 2 * index, &1u16.to_be_bytes());
    }
    image
}

#[test]
fn empty_empties_although_the_base_is_named() {
    if without_kvm("empty_empties_although_the_base_is_named") {
        return;
    }
    let folder = pair();
    let ended = folder.run(&["commit", "--empty", "-b", "base.qcow2", "overlay.qcow2"]);
    assert_eq!(ended, success("Image committed.\n"));
    assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x11);
    assert_eq!(length(&folder, "overlay.qcow2"), 4 * CLUSTER_BYTES as u64);
    chain_of_three().fails(
        &["commit", "--empty", "-b", "base.qcow2", "top.qcow2"],
        "instar: 'top.qcow2': --empty: it would show 'overlay.qcow2' again, which is older than what 'base.qcow2' \
         receives; it can only be emptied into the image right below it",
    );
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let folder = pair();
    let refused = |options: &[&str], text: &str| {
        folder.fails(&[&["commit"], options, &["overlay.qcow2"]].concat(), &format!("instar: {text}"));
    };
    refused(&["--empty", "--delete-overlay"], "--empty and --delete-overlay are mutually exclusive");
    refused(&["--empty", "-d"], "--empty and --drop are mutually exclusive");
    refused(
        &["--progress=x"],
        "--progress expects 'auto', 'plain', 'bar', 'json' or 'none', not 'x'\n\
         Try 'instar commit --help' for more information",
    );
}

#[test]
fn delete_overlay_leaves_the_base_alone_with_everything() {
    if without_kvm("delete_overlay_leaves_the_base_alone_with_everything") {
        return;
    }
    for cache in ["writeback", "unsafe"] {
        let folder = pair();
        let ended = folder.run(&["commit", "-t", cache, "--delete-overlay", "overlay.qcow2"]);
        assert_eq!(ended, success("Image committed.\n"));
        assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x11);
        assert!(!folder.path().join("overlay.qcow2").exists());
    }
    let folder = chain_of_three();
    let ended = folder.run(&["commit", "--output=json", "--delete-overlay", "-b", "base.qcow2", "top.qcow2"]);
    assert!(ended.stdout.ends_with(",\n    \"overlay_deleted\": true\n}\n"), "{ended:?}");
    assert_eq!(first_data_byte(&folder, "base.qcow2"), 0x22);
    assert!(!folder.path().join("top.qcow2").exists() && folder.path().join("overlay.qcow2").exists());
    // A commit that fails deletes nothing.
    folder.fails(&["commit", "--delete-overlay", "base.qcow2"], "instar: Image does not have a backing file");
}

#[test]
fn snapshots_of_the_overlay_are_not_lost_unnoticed() {
    if without_kvm("snapshots_of_the_overlay_are_not_lost_unnoticed") {
        return;
    }
    let folder = pair();
    folder.file("overlay.qcow2", &with_snapshot(qcow2(0x11, "base.qcow2", "qcow2")));
    folder.fails(
        &["commit", "--delete-overlay", "overlay.qcow2"],
        "instar: 'overlay.qcow2': --delete-overlay: its internal snapshots would be lost; --force deletes it all the same",
    );
    let warning = "instar: warning: 'overlay.qcow2' has internal snapshots; where they read from 'base.qcow2', they will \
                   show the changed data\n";
    let warned = |stdout: &str| Ended { stderr: warning.to_owned(), ..success(stdout) };
    assert_eq!(folder.run(&["commit", "-d", "overlay.qcow2"]), warned("Image committed.\n"));
    let ended = folder.run(&["commit", "--force", "--delete-overlay", "overlay.qcow2"]);
    assert_eq!(ended, warned("Image committed.\n"));
    assert!(!folder.path().join("overlay.qcow2").exists());
}

#[test]
fn other_overlays_of_the_base_are_found_in_a_directory() {
    if without_kvm("other_overlays_of_the_base_are_found_in_a_directory") {
        return;
    }
    let folder = pair();
    folder.file("d/near.qcow2", &qcow2(0x33, "../base.qcow2", "qcow2"));
    let absolute = folder.path().canonicalize().expect("exists").join("base.qcow2");
    folder.file("d/far.qcow2", &qcow2(0x33, absolute.to_str().expect("UTF-8"), "qcow2"));
    folder.file("d/elsewhere.qcow2", &qcow2(0x33, "nothing.qcow2", "qcow2"));
    folder.file("d/forbidden.qcow2", &qcow2(0x33, "../images/base.qcow2", "qcow2"));
    folder.file("d/alone.qcow2", &qcow2(0x33, "", ""));
    folder.file("d/text", b"no image");
    folder.file("d/deeper/unseen.qcow2", &qcow2(0x33, "../../base.qcow2", "qcow2"));
    symlink("near.qcow2", folder.path().join("d/link.qcow2")).expect("a link");
    let check = ["commit", "--check-siblings", "d"];
    let unknown = "instar: warning: Could not tell what 'd/forbidden.qcow2' is based on: The image names \
                   '../images/base.qcow2', which is outside of the directories that may be used; --allow-dir DIR allows a \
                   directory, --allow-any-path every file\n";
    let message = format!(
        "{unknown}instar: 'base.qcow2': Other overlays read from it, and what they show would change:\n  d/far.qcow2\n  \
         d/near.qcow2\nNothing was changed; --force commits all the same"
    );
    folder.fails(&[&check[..], &["overlay.qcow2"]].concat(), &message);
    // In the overlay's own directory there is nobody else.
    let ended = folder.run(&["commit", "-d", "--check-siblings", ".", "overlay.qcow2"]);
    assert_eq!(ended, success("Image committed.\n"));
    let ended = folder.run(&[&check[..], &["--force", "overlay.qcow2"]].concat());
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "Image committed.\n"));
    let warning =
        |name: &str| format!("instar: warning: '{name}' reads from 'base.qcow2' too and will show the changed data\n");
    assert_eq!(ended.stderr, format!("{unknown}{}{}", warning("d/far.qcow2"), warning("d/near.qcow2")));
}

#[test]
fn overlays_of_an_image_between_are_siblings_too() {
    if without_kvm("overlays_of_an_image_between_are_siblings_too") {
        return;
    }
    let folder = chain_of_three();
    folder.file("other.qcow2", &qcow2(0x33, "overlay.qcow2", "qcow2"));
    let check = ["commit", "--check-siblings", ".", "top.qcow2"];
    let ended = folder.run(&check);
    assert!(ended.stderr.contains("\n  ./other.qcow2\n"), "{ended:?}");
    fs::remove_file(folder.path().join("other.qcow2")).expect("it was there");
    assert_eq!(folder.run(&check), success("Image committed.\n"));
}

#[test]
fn every_cache_mode_ends_in_the_same_images() {
    if without_kvm("every_cache_mode_ends_in_the_same_images") {
        return;
    }
    let images = |folder: &Folder| ["base.qcow2", "overlay.qcow2"].map(|name| fs::read(folder.path().join(name)).ok());
    let usual = pair();
    assert_eq!(usual.run(&["commit", "overlay.qcow2"]), success("Image committed.\n"));
    for cache in ["writeback", "unsafe", "writethrough", "none", "off", "directsync"] {
        let folder = pair();
        let ended = folder.run(&["commit", "-t", cache, "overlay.qcow2"]);
        if ended.stderr.ends_with("filesystem does not support O_DIRECT\n") {
            eprintln!("-t {cache}: not run, {}", ended.stderr);
            continue;
        }
        assert_eq!(ended, success("Image committed.\n"), "{cache}");
        assert!(images(&folder) == images(&usual), "{cache}");
    }
}

#[test]
fn a_rate_limit_is_kept() {
    if without_kvm("a_rate_limit_is_kept") {
        return;
    }
    let folder = pair();
    let start = Instant::now();
    // A cluster, and some bytes of tables.
    assert_eq!(folder.run(&["commit", "-r", "400", "overlay.qcow2"]), success("Image committed.\n"));
    let took = start.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn progress_can_be_had_as_json_or_not_at_all() {
    if without_kvm("progress_can_be_had_as_json_or_not_at_all") {
        return;
    }
    for how in [&["--progress", "json"][..], &["--progress=json"]] {
        let ended = pair().run(&[&["commit"], how, &["overlay.qcow2"]].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "Image committed.\n"));
        assert!(ended.stderr.starts_with("{\"done_bytes\": 0, ") && ended.stderr.ends_with("\"finished\": true}\n"));
        assert!(
            ended.stderr.contains("{\"done_bytes\": 512, \"total_bytes\": 512, \"percent\": 100.00, "),
            "{ended:?}"
        );
    }
    for how in ["none", "bar"] {
        let ended = pair().run(&["commit", "-p", "--progress", how, "overlay.qcow2"]);
        assert_eq!(ended, success("Image committed.\n"), "{how}");
    }
    let shown = pair().run(&["commit", "--progress", "overlay.qcow2"]).stdout;
    assert!(shown.starts_with("    (0.00/100%)\r"), "{shown}");
}
