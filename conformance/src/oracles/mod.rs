//! The oracles, one a file. Each looks at one aspect of what a run left and says in its header what it cannot see.

pub mod bitmaps;
pub mod content;
pub mod exit;
pub mod folder;
mod imago_reader;
pub mod info;
pub mod installed;
pub mod length;
pub mod map;
pub mod snapshots;
pub mod stderr;
pub mod stdout;
pub mod structure;
pub mod untouched;

use crate::case::{Case, Outcome};
use crate::folder::FolderState;
use crate::image::qcow2::Bitmap;
use crate::image::{CheckResultOf, Piece};
use crate::roles::Roles;
use crate::runner::{Program, RunOutput};
use crate::whitelist::Whitelist;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The content digest of the qcow2 file at `path` as the imago crate reads it.
pub fn imago_digest(path: &Path) -> Result<String, String> {
    imago_reader::digest(path)
}

/// One difference from what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Name of the oracle.
    pub oracle: &'static str,
    /// The file, if it is about one.
    pub file: Option<String>,
    /// What differs.
    pub text: String,
}

impl Finding {
    /// A finding about the run as a whole.
    pub fn run(oracle: &'static str, text: impl Into<String>) -> Self {
        Self { oracle, file: None, text: text.into() }
    }

    /// A finding about one file.
    pub fn file(oracle: &'static str, file: &str, text: impl Into<String>) -> Self {
        Self { oracle, file: Some(file.to_owned()), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{} ({file}): {}", self.oracle, self.text),
            None => write!(f, "{}: {}", self.oracle, self.text),
        }
    }
}

/// How closely a run must follow the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// The product: it may be leaner and may leave fewer leaks.
    Product,
    /// The product in a case that no one has looked at: as above, and every file may be shorter than recorded.
    Unseen,
    /// qemu-img itself, replayed to test the harness: maps and counts must be the recorded ones.
    SameProgram,
}

/// By whom and how a case is judged.
#[derive(Clone, Copy)]
pub struct Judging<'a> {
    /// What runs the case and answers `info`.
    pub program: &'a dyn Program,
    /// Fields of info JSON that are not compared.
    pub whitelist: &'a Whitelist,
    /// How closely it must follow.
    pub strictness: Strictness,
}

/// What the readers of this crate see in one file after the run.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Digest through the file's chain, or why it cannot be read.
    pub content: Result<String, String>,
    /// The same through the imago crate, where it knows every format and feature of the chain.
    pub imago: Option<Result<String, String>>,
    /// Allocation map; `None` where holes of the host's file system would decide, or the chain cannot be read.
    pub map: Option<Vec<Piece>>,
    /// Counts, for qcow2 files.
    pub check: Option<CheckResultOf>,
    /// Persistent bitmaps of a qcow2 file; none where it cannot be read.
    pub bitmaps: Vec<Bitmap>,
}

/// A finished run with everything that the oracles look at.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The case.
    pub case: &'a Case,
    /// Where it ran.
    pub folder: &'a Path,
    /// What the arguments mean.
    pub roles: Roles,
    /// The folder before.
    pub before: FolderState,
    /// The folder after.
    pub after: FolderState,
    /// Exit status and texts.
    pub output: RunOutput,
    /// By file name.
    pub readings: BTreeMap<String, Reading>,
}

impl Evidence<'_> {
    /// Whether the run ended like the recorded one.
    pub fn ended_like(&self, outcome: &Outcome) -> bool {
        self.output.rc == outcome.rc
    }
}

/// A unified diff of two texts.
pub fn unified_diff(recorded: &str, actual: &str) -> String {
    let diff = similar::TextDiff::from_lines(recorded, actual);
    diff.unified_diff().context_radius(2).header("recorded", "now").to_string()
}
