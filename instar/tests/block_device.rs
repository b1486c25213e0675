//! Block devices as FILE and as base, where the system lets the test make loop devices.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::path::Path;
use std::process::Command;

use common::{Ended, Folder};
use image::{CLUSTER_BYTES, qcow2};
use kvm::without_kvm;

/// A loop device, which goes with the value.
struct Loop(String);

impl Loop {
    /// `None` where there are none to be had.
    fn over(path: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["-f", "--show"]).arg(path).output().ok()?;
        let name = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| Self(name.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// An image with room behind it, as there is on a device; what lies there is not zero.
fn spacious(mut image: Vec<u8>) -> Vec<u8> {
    image.resize(256 * CLUSTER_BYTES, 0xee);
    image
}

/// A folder, and its overlay and base as devices.
fn devices(test: &str) -> Option<(Folder, Loop, Loop)> {
    if without_kvm(test) {
        return None;
    }
    let folder = Folder::new();
    let base = Loop::over(&folder.file("base.img", &spacious(qcow2(0xbb, "", ""))));
    let name = base.as_ref().map_or("", |device| device.0.as_str());
    let overlay = Loop::over(&folder.file("overlay.img", &spacious(qcow2(0x11, name, "qcow2"))));
    match (overlay, base) {
        (Some(overlay), Some(base)) => Some((folder, overlay, base)),
        _ => {
            println!("{test}: skipped, no loop device can be made here");
            None
        }
    }
}

fn committed() -> Ended {
    Ended { status: Some(0), stdout: "Image committed.\n".to_owned(), stderr: String::new() }
}

/// The file behind a device; it may show what was written to the device a little late.
fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).expect("the file is there")
}

#[test]
fn devices_that_are_named_are_committed_and_emptied() {
    let Some((folder, overlay, base)) = devices("devices_that_are_named_are_committed_and_emptied") else { return };
    assert_eq!(folder.run(&["commit", "--empty", "-b", &base.0, &overlay.0]), committed());
    assert_eq!(std::fs::read(&base.0).expect("a device")[5 * CLUSTER_BYTES], 0x11);
    let emptied = std::fs::read(&overlay.0).expect("a device");
    assert_eq!(emptied.len(), 256 * CLUSTER_BYTES);
    assert_eq!(emptied[3 * CLUSTER_BYTES..4 * CLUSTER_BYTES], [0; CLUSTER_BYTES]);
    assert_eq!(folder.run(&["commit", "-b", &base.0, &overlay.0]), committed());
}

#[test]
fn a_device_that_only_an_image_names_is_not_touched() {
    let Some((folder, overlay, base)) = devices("a_device_that_only_an_image_names_is_not_touched") else { return };
    folder.file("top.qcow2", &qcow2(0x11, &base.0, "qcow2"));
    let before = read(&folder, "base.img");
    let ended = folder.run(&["commit", "top.qcow2"]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("is outside of the directories that may be used"), "{}", ended.stderr);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&base.0, &link).expect("a link");
    folder.file("top.qcow2", &qcow2(0x11, "link", "qcow2"));
    assert_eq!(folder.run(&["commit", "top.qcow2"]).status, Some(1));
    assert_eq!(read(&folder, "base.img"), before);
    let refusal = folder.run(&["commit", "--delete-overlay", "-b", &base.0, &overlay.0]);
    let expected =
        format!("instar: '{}': --delete-overlay: it is a block device, which cannot be deleted\n", overlay.0);
    assert_eq!((refusal.status, refusal.stderr), (Some(1), expected));
}
