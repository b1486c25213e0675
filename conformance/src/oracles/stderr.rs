//! Standard error, exact after folding: the program's name, generated node names, the case's folder.
//!
//! Cannot see: whether text went out in one piece or several, and its order relative to standard output.

use super::{Evidence, Finding, unified_diff};
use crate::case::Outcome;
use crate::text;

fn fold(text: &str) -> String {
    text::as_instar(&text::fold_node_names(text))
}

/// Compares standard error.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let recorded = fold(&outcome.stderr);
    let actual = fold(&text::universal(&evidence.output.stderr, &evidence.folder.to_string_lossy()));
    if recorded == actual { Vec::new() } else { vec![Finding::run("stderr", unified_diff(&recorded, &actual))] }
}
