//! Structure of qcow2 files: corruptions and leaks as counted by this crate's own checker, no more than recorded.
//!
//! Not judged by it: raw, vmdk, vdi, vhdx, vpc, qed, qcow and parallels files (an installed qemu-img checks some of them).
//! Cannot see: whether data is right, and what the checker's header lists.

use super::{Evidence, Finding, Strictness};
use crate::case::Outcome;

/// Compares counts.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, strictness: Strictness) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, recorded) in &outcome.files {
        let check = evidence.readings.get(name).and_then(|reading| reading.check.as_ref());
        let (Some(recorded), Some(check)) = (recorded.check, check) else { continue };
        let now = match check {
            Ok(now) => now,
            Err(error) => {
                findings.push(Finding::file("structure", name, format!("cannot be checked: {error}")));
                continue;
            }
        };
        let same = (now.corruptions, now.leaks) == (recorded.corruptions, recorded.leaks);
        let fine = now.corruptions <= recorded.corruptions && now.leaks <= recorded.leaks;
        if !(same || strictness != Strictness::SameProgram && fine) {
            let text = format!(
                "recorded {} corruptions and {} leaks, now {} and {}: {}",
                recorded.corruptions,
                recorded.leaks,
                now.corruptions,
                now.leaks,
                now.notes.join("; ")
            );
            findings.push(Finding::file("structure", name, text));
        }
    }
    findings
}
