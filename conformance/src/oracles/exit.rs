//! Exit status: the recorded number, signal or hang.
//!
//! Cannot see: why the program ended so; that is what the texts are for.

use super::{Evidence, Finding};
use crate::case::Outcome;

fn describe(rc: Option<i32>) -> String {
    match rc {
        None => "hangs".into(),
        Some(rc) if rc < 0 => format!("killed by signal {}", -rc),
        Some(rc) => format!("exit {rc}"),
    }
}

/// Compares the exit status.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    if evidence.ended_like(outcome) {
        return Vec::new();
    }
    let said = String::from_utf8_lossy(&evidence.output.stderr).into_owned();
    let text = format!(
        "recorded {}, now {}; stderr now: {}",
        describe(outcome.rc),
        describe(evidence.output.rc),
        said.trim_end()
    );
    vec![Finding::run("exit", text)]
}
