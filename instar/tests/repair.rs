//! Images that were not closed properly, through the real sandbox: what is said, and that they are in order afterwards.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use common::{Ended, Folder};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;

const FOUND: &str = "ERROR cluster 5 refcount=0 reference=1\nRebuilding refcount structure\n";

/// Marks an image as not closed properly, and forgets that its data cluster is in use.
fn spoilt(mut image: Vec<u8>) -> Vec<u8> {
    image[79] |= 1;
    image[2 * CLUSTER_BYTES + 10..][..2].fill(0);
    image
}

fn folder(spoils_overlay: bool, spoils_base: bool) -> Folder {
    let folder = Folder::new();
    let file = |name: &str, image, spoils| folder.file(name, &if spoils { spoilt(image) } else { image });
    file("base.qcow2", qcow2(0xbb, "", ""), spoils_base);
    file("overlay.qcow2", qcow2(0x11, "base.qcow2", "qcow2"), spoils_overlay);
    folder
}

fn ended(stdout: &str, stderr: &str) -> Ended {
    Ended { status: Some(0), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

#[track_caller]
fn assert_is_repaired(folder: &Folder, name: &str) {
    let bytes = std::fs::read(folder.path().join(name)).expect("the file is there");
    assert_eq!(bytes[79] & 1, 0, "{name} is still marked");
    assert_eq!(bytes[2 * CLUSTER_BYTES + 10..][..2], [0, 1], "{name}: the refcount of cluster 5");
}

#[test]
fn an_overlay_is_repaired_with_qemu_imgs_words() {
    if without_kvm("an_overlay_is_repaired_with_qemu_imgs_words") {
        return;
    }
    for (arguments, stdout) in [
        (&["commit", "-d", "overlay.qcow2"][..], "Image committed.\n"),
        (&["commit", "-q", "-b", "base.qcow2", "overlay.qcow2"], ""),
        (&["rebase", "-u", "-b", "other.qcow2", "-F", "qcow2", "overlay.qcow2"], ""),
        (&["rebase", "-b", "base.qcow2", "-F", "qcow2", "overlay.qcow2"], ""),
    ] {
        let folder = folder(true, false);
        assert_eq!(folder.run(arguments), ended(stdout, FOUND), "{arguments:?}");
        assert_is_repaired(&folder, "overlay.qcow2");
    }
}

#[test]
fn a_base_is_repaired_before_it_is_written() {
    if without_kvm("a_base_is_repaired_before_it_is_written") {
        return;
    }
    let folder = folder(true, true);
    let heading = "instar: warning: 'base.qcow2' was not closed properly; it is repaired first:\n";
    let stderr = format!("{FOUND}{heading}{FOUND}");
    assert_eq!(folder.run(&["commit", "overlay.qcow2"]), ended("Image committed.\n", &stderr));
    assert_is_repaired(&folder, "base.qcow2");
    let base = std::fs::read(folder.path().join("base.qcow2")).expect("the file is there");
    assert_eq!(base[5 * CLUSTER_BYTES], 0x11);
}

#[test]
fn a_flag_alone_is_cleared_without_a_word() {
    if without_kvm("a_flag_alone_is_cleared_without_a_word") {
        return;
    }
    let folder = Folder::new();
    let mut base = qcow2(0xbb, "", "");
    base[79] |= 1;
    folder.file("base.qcow2", &base);
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    assert_eq!(folder.run(&["commit", "overlay.qcow2"]), ended("Image committed.\n", ""));
    assert_is_repaired(&folder, "base.qcow2");
}

#[test]
fn more_than_stale_refcounts_is_refused() {
    if without_kvm("more_than_stale_refcounts_is_refused") {
        return;
    }
    let folder = Folder::new();
    let mut base = spoilt(qcow2(0xbb, "", ""));
    let entry = base[4 * CLUSTER_BYTES..][..8].to_vec();
    base[4 * CLUSTER_BYTES + 8..][..8].copy_from_slice(&entry);
    folder.file("base.qcow2", &base);
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder.fails(
        &["commit", "overlay.qcow2"],
        "instar: 'base.qcow2': the image was not closed properly and more than its refcounts is wrong: \
         the cluster at 0xa00 is used twice",
    );
}

#[test]
fn an_image_marked_as_corrupt_stays_as_it_is() {
    if without_kvm("an_image_marked_as_corrupt_stays_as_it_is") {
        return;
    }
    let folder = Folder::new();
    let mut base = spoilt(qcow2(0xbb, "", ""));
    base[79] |= 2;
    folder.file("base.qcow2", &base);
    folder.file("overlay.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder.fails(
        &["commit", "overlay.qcow2"],
        "instar: 'base.qcow2': The image is marked corrupt; writing to it is refused",
    );
}
