//! Overlays with a base each, and command lines that commit several.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;

use crate::common::Folder;
use crate::image::{CLUSTER_BYTES, qcow2};

/// Overlays of these names, each with a base of its own.
pub(crate) fn pairs(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in names {
        folder.file(&format!("{name}.base"), &qcow2(0xbb, "", ""));
        folder.file(&format!("{name}.qcow2"), &qcow2(0x11, &format!("{name}.base"), "qcow2"));
    }
    folder
}

/// Whether the base of this overlay has what it held.
pub(crate) fn is_committed(folder: &Folder, name: &str) -> bool {
    fs::read(folder.path().join(format!("{name}.base"))).expect("a base")[5 * CLUSTER_BYTES] == 0x11
}

/// Lines in an order that does not depend on who was first.
pub(crate) fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The words of a command.
pub(crate) fn commit<'a>(options: &[&'a str], files: &[&'a str]) -> Vec<&'a str> {
    [&["commit"], options, files].concat()
}
