//! Standard output, exact after folding: carriage returns as line feeds, progress updates between the first and the last dropped.
//!
//! Cannot see: how often progress is updated, and when.

use super::{Evidence, Finding, unified_diff};
use crate::case::Outcome;
use crate::text;

/// Compares standard output.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let recorded = text::collapse_progress(&outcome.stdout);
    let actual = text::collapse_progress(&text::universal(&evidence.output.stdout, &evidence.folder.to_string_lossy()));
    if recorded == actual { Vec::new() } else { vec![Finding::run("stdout", unified_diff(&recorded, &actual))] }
}
