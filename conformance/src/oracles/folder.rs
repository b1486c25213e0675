//! The folder: the files that existed after the recorded run exist now, and no others.
//!
//! Cannot see: files outside of the case's private folder, and names that came and went during the run.

use super::{Evidence, Finding};
use crate::case::Outcome;

/// Compares the lists of files.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in outcome.files.keys().filter(|name| !evidence.after.contains_key(*name)) {
        findings.push(Finding::file("folder", name, "is gone"));
    }
    for name in evidence.after.keys().filter(|name| !outcome.files.contains_key(*name)) {
        findings.push(Finding::file("folder", name, "is new"));
    }
    findings
}
