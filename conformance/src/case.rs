//! A case (operation, fixture, argv) with every recorded outcome: data, loaded from `instar-testdata/recordings`.
//!
//! Unknown fields are errors, so that a recording never says something that nobody judges.

use crate::image::qcow2::Bitmap;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A recorded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `qemu-img commit`.
    Commit,
    /// `qemu-img rebase`.
    Rebase,
}

impl Operation {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Rebase => "rebase",
        }
    }
}

/// One command on one fixture, and what every version of qemu-img made of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique; also the file name without `.json`.
    pub name: String,
    /// The command.
    pub op: Operation,
    /// Folder below `instar-testdata/fixtures`, or an absolute path.
    pub fixture: String,
    /// Arguments behind the command word.
    pub argv: Vec<String>,
    /// Every version appears in exactly one.
    pub outcomes: Vec<Outcome>,
}

/// What some versions did.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The versions that ended alike.
    pub versions: Vec<String>,
    /// Exit status; negative: killed by that signal; null: still running after 60 s.
    pub rc: Option<i32>,
    /// Exact text, with carriage returns as line feeds.
    pub stdout: String,
    /// Exact text; generated node names read `#blockN`.
    pub stderr: String,
    /// Every file that existed afterwards.
    pub files: BTreeMap<String, FileState>,
}

/// One file after the command.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    /// Length in bytes in the first run.
    pub length: u64,
    /// Shortest and longest length over versions and runs.
    pub length_range: [u64; 2],
    /// What this version's `info --output=json` printed; null where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// What `info` said where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_error: Option<String>,
    /// Counts from `qemu-img check`; null where it could not check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Exit status of `qemu-img check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_rc: Option<i32>,
    /// Merged allocation map; absent where holes of the host's file system would decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Vec<MapPiece>>,
    /// Digest of the guest's view; null where it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What internal snapshots show through the chain: digests by identifier. Not in the delivered recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<BTreeMap<String, String>>,
    /// Persistent bitmaps with their contents. Not in the delivered recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<Vec<Bitmap>>,
    /// SHA-256 of a file that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Reading the content did not end (a backing chain that contains itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<bool>,
}

/// Counts of `qemu-img check`; a count that is 0 is left out there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Check {
    /// Errors of the check itself.
    #[serde(default)]
    pub check_errors: u64,
    /// Wrong references and refcounts that are too low.
    #[serde(default)]
    pub corruptions: u64,
    /// Refcounts that are too high.
    #[serde(default)]
    pub leaks: u64,
}

/// One run of an allocation map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MapPiece {
    /// First guest byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// 0 is this file.
    pub depth: usize,
    /// What the layer holds.
    pub kind: MapKind,
}

/// Kinds of an allocation map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MapKind {
    /// Stored bytes.
    Data,
    /// Zero by metadata.
    Zero,
    /// No layer holds anything.
    Absent,
}

/// A recording or another data file that cannot be used.
#[derive(Debug)]
pub struct DataError {
    /// The file.
    pub path: String,
    /// The finding.
    pub finding: String,
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.finding)
    }
}

impl std::error::Error for DataError {}

impl DataError {
    /// Names a file and what is wrong with it.
    pub fn new(path: &Path, finding: impl fmt::Display) -> Self {
        Self { path: path.display().to_string(), finding: finding.to_string() }
    }
}

impl Case {
    /// Loads one recording.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let text = std::fs::read_to_string(path).map_err(|e| DataError::new(path, e))?;
        let case: Self = serde_json::from_str(&text).map_err(|e| DataError::new(path, e))?;
        if path.file_stem().is_none_or(|stem| stem != case.name.as_str()) {
            return Err(DataError::new(path, format!("holds the case {}", case.name)));
        }
        case.check_versions(&versions()?).map_err(|finding| DataError::new(path, finding))?;
        Ok(case)
    }

    /// Every version must appear once: a missing baseline is an error.
    fn check_versions(&self, all: &[String]) -> Result<(), String> {
        for version in all {
            match self.outcomes.iter().filter(|o| o.versions.contains(version)).count() {
                1 => {}
                0 => return Err(format!("no outcome for version {version}")),
                n => return Err(format!("{n} outcomes for version {version}")),
            }
        }
        match self.outcomes.iter().flat_map(|o| &o.versions).find(|v| !all.contains(v)) {
            Some(unknown) => Err(format!("outcome for the unknown version {unknown}")),
            None => Ok(()),
        }
    }

    /// The outcome of one version.
    pub fn outcome(&self, version: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.versions.iter().any(|v| v == version))
    }

    /// All recorded states of one file where the command ended with this exit status.
    pub fn states<'a>(&'a self, file: &'a str, rc: Option<i32>) -> impl Iterator<Item = &'a FileState> {
        self.outcomes.iter().filter(move |o| o.rc == rc).filter_map(move |o| o.files.get(file))
    }
}

/// The recorded versions, oldest first.
pub fn versions() -> Result<Vec<String>, DataError> {
    let path = paths::testdata().join("VERSIONS");
    let text = std::fs::read_to_string(&path).map_err(|e| DataError::new(&path, e))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// All cases of one operation, sorted by name.
pub fn load_all(op: Operation) -> Result<Vec<Case>, DataError> {
    let folder = paths::testdata().join("recordings").join(op.word());
    let entries = std::fs::read_dir(&folder).map_err(|e| DataError::new(&folder, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| DataError::new(&folder, e))?.path());
    }
    paths.sort();
    let cases: Vec<Case> = paths.iter().map(|path| Case::load(path)).collect::<Result<_, _>>()?;
    match cases.iter().find(|case| case.op != op) {
        Some(case) => Err(DataError::new(&folder, format!("{} is another operation", case.name))),
        None => Ok(cases),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuse_unknown_field_in_a_recording() {
        let text = r#"{"name":"a","op":"commit","fixture":"f","argv":[],"outcomes":[],"surprise":1}"#;
        let error = serde_json::from_str::<Case>(text).expect_err("unknown field");
        assert!(error.to_string().contains("surprise"), "{error}");
    }

    #[test]
    fn refuse_missing_baseline_by_name() {
        let text = r#"{"name":"a","op":"commit","fixture":"f","argv":[],"outcomes":[]}"#;
        let case: Case = serde_json::from_str(text).expect("a case");
        assert_eq!(case.check_versions(&["9.9.9".into()]), Err("no outcome for version 9.9.9".into()));
    }
}
