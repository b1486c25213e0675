//! Runs a program on an unpacked fixture and captures everything that it did.
//!
//! The product runs in two ways that must give the same verdicts: as the built program, and in this process. Only the latter,
//! and the crash harness that is built on it, know the product's crates.

pub mod inprocess;
mod process;
mod product;
mod qemu_img;

pub use inprocess::InProcess;
pub(crate) use process::collect;
pub use process::{RunOutput, run};
pub use product::{Product, Sandbox};
pub use qemu_img::QemuImg;

use crate::case::Case;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Longer than this is a hang; the recordings used the same limit.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A program that claims to behave like qemu-img.
pub trait Program: Sync {
    /// Runs the case in `folder`.
    fn run_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput>;
    /// Asks for the info JSON of one file, as version `version` prints it.
    fn info(&self, version: &str, folder: &Path, file: &str) -> io::Result<RunOutput>;
    /// Whether installed versions of qemu-img are asked about what it left, which takes longer than everything else.
    fn is_shown_to_qemu_img(&self) -> bool {
        true
    }
    /// A command line that shows the same run by hand.
    fn describe(&self, case: &Case) -> String;
}

/// The format by which the recordings opened a file: the one of its extension.
pub fn format_of(file: &str) -> Option<&str> {
    let (_, extension) = file.rsplit_once('.')?;
    (extension != "data").then_some(extension)
}
