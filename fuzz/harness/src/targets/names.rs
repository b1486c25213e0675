//! Names that images record, against the gate: whatever the name is, no file outside of the allowed tree is opened.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use instar::files::chain::{Finding, Inspect, Links, Summary, discover};
use instar::files::policy::{Gate, GateOptions};
use instar::files::{Access, ImageFile, ImageKeys, open_operand};
use instar_abi::job::format;

/// Says of the first image that it records a name, of all others that they do not; keeps what was opened.
struct Recorder<'a> {
    name: &'a [u8],
    opened: Vec<std::path::PathBuf>,
}

impl Inspect for Recorder<'_> {
    type Error = ();

    fn inspect(&mut self, image: &ImageFile, _: u32) -> Result<Summary, Finding<()>> {
        let backing_name = self.opened.is_empty().then(|| self.name.to_vec());
        self.opened.push(image.canonical().clone());
        Ok(Summary { format: format::QCOW2, backing_name, ..Summary::default() })
    }
}

pub(super) fn path_policy(name: &[u8]) {
    let top = tempfile::tempdir().expect("a folder");
    let root = fs::canonicalize(top.path()).expect("a path");
    let allowed = root.join("allowed");
    fs::create_dir_all(allowed.join("deeper")).expect("a folder");
    for file in ["secret", "allowed/overlay", "allowed/base", "allowed/deeper/base"] {
        fs::write(root.join(file), file).expect("a file");
    }
    for (link, leads_to) in [("allowed/out", ".."), ("allowed/secret", "../secret"), ("allowed/in", "deeper")] {
        symlink(leads_to, root.join(link)).expect("a link");
    }
    let overlay = allowed.join("overlay");
    let gate = Gate::new(overlay.as_os_str().as_bytes(), &GateOptions::default()).expect("a gate");
    let image = open_operand(overlay.as_os_str().as_bytes(), Access::Read).expect("opens");
    let mut recorder = Recorder { name, opened: Vec::new() };
    let _ = discover(&gate, image, format::QCOW2, ImageKeys::default(), Links::OfOverlay, &mut recorder);
    for path in &recorder.opened {
        assert!(path.starts_with(&allowed), "{} was opened", path.display());
    }
}
