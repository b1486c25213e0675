//! Files that must not change: all of them when the command fails, else all but the ones that the command is for.
//!
//! Cannot see: times, permissions and extended attributes; a write that stored the same bytes.

use super::{Evidence, Finding};

/// Compares bytes before and after.
pub fn judge(evidence: &Evidence<'_>) -> Vec<Finding> {
    let failed = evidence.output.rc != Some(0);
    let mut findings = Vec::new();
    for (name, before) in &evidence.before {
        if evidence.after.get(name) != Some(before) && (failed || !evidence.roles.writable.contains(name)) {
            let why = if failed {
                "changed although the command failed"
            } else {
                "changed although the command is not for it"
            };
            findings.push(Finding::file("untouched", name, why));
        }
    }
    findings
}
