//! Whatever the bytes of an image are, the built program exits with 0 or 1, within time and memory, and leaves other files alone.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use instar::cli::info::format_name;
use nix::sys::resource::{UsageWho, getrusage};

/// The most memory that a run may take, in KiB.
const MEMORY_KIB_MAX: i64 = 128 << 10;

/// Runs info, plan, commit and rebase of the program on an image.
///
/// # Panics
/// If anything does not hold; `name` is in the message.
pub fn survives(program: &Path, name: &str, format: u32, image: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |file: &str| folder.path().join(file);
    let bystander = vec![0x42; 70_000];
    fs::write(at("bystander"), &bystander).expect("written");
    for arguments in [
        &["info"][..],
        &["info", "-f", format_name(format)],
        &["plan", "rebase", "-b", ""],
        &["commit", "-q"],
        &["rebase", "-b", ""],
    ] {
        fs::write(at("image"), image).expect("written");
        let status = Command::new(program)
            .args(arguments)
            .arg("image")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("the program starts");
        // The most that any run has taken so far: the first that takes too much fails here.
        let memory_kib = getrusage(UsageWho::RUSAGE_CHILDREN).expect("known").max_rss();
        assert!(matches!(status.code(), Some(0 | 1)), "{name}: {arguments:?} ended with {status:?}");
        assert!(memory_kib < MEMORY_KIB_MAX, "{name}: {arguments:?} took {memory_kib} KiB");
        assert!(fs::read(at("bystander")).expect("there") == bystander, "{name}: {arguments:?} changed another file");
    }
    only_known_files(folder.path(), name);
}

fn only_known_files(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).expect("readable") {
        let file = entry.expect("an entry").file_name();
        assert!(file == "image" || file == "bystander", "{name}: {} has appeared", file.display());
    }
}
