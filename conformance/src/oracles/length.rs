//! File lengths: exactly the recorded one where qemu-img gives it deterministically, else no longer than the longest recorded.
//!
//! Cannot see: blocks that the host's file system uses, and unused space inside of the file (leaks are the structure oracle's).

use super::{Evidence, Finding, Strictness};
use crate::case::{Case, Outcome};

/// Shortest and longest recorded length of a file over all outcomes with this exit status.
pub fn recorded_range(case: &Case, file: &str, rc: Option<i32>) -> Option<[u64; 2]> {
    case.states(file, rc).map(|state| state.length_range).reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])])
}

/// Compares lengths. A few recorded runs of qemu-img do not show its longest file, so that bound holds for the product only.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, strictness: Strictness) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, recorded) in &outcome.files {
        let Some(now) = evidence.after.get(name) else { continue };
        let [shortest, longest] = recorded_range(evidence.case, name, outcome.rc).unwrap_or(recorded.length_range);
        if shortest == longest && now.length != shortest {
            findings.push(Finding::file("length", name, format!("recorded {shortest}, now {}", now.length)));
        } else if strictness == Strictness::Product && now.length > longest {
            findings.push(Finding::file("length", name, format!("recorded at most {longest}, now {}", now.length)));
        }
    }
    findings
}
