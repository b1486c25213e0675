//! Findings in words, and as JSON.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::finding::{Finding, Need};
use crate::text::Printable;

/// Width of the column with the checks' names.
const NAME_WIDTH: usize = 12;

/// One line for what works, more for what does not, and what it comes to.
pub(super) fn human(findings: &[Finding], directory: &Path) -> String {
    let mut text = String::new();
    for finding in findings {
        let line = match (&finding.outcome, finding.need) {
            (Ok(detail), _) => format!("yes  {}", shown(detail)),
            (Err(trouble), need) => {
                let lost = match need {
                    Need::Always => "nothing works without it".to_owned(),
                    Need::For(what) => format!("lost without it: {what}"),
                };
                let indent = " ".repeat(NAME_WIDTH + 6);
                format!("no   {}\n{indent}{lost}\n{indent}{}", shown(&trouble.cause), shown(&trouble.remedy))
            }
        };
        let _ = writeln!(text, "{:NAME_WIDTH$} {}", finding.check, line.trim_end());
    }
    let fit = if findings.iter().any(Finding::is_fatal) { "not fit" } else { "fit" };
    let _ = writeln!(text, "This machine is {fit} for images in '{}'.", shown(&directory.to_string_lossy()));
    text
}

/// An object with a list of checks.
pub(super) fn json(findings: &[Finding], directory: &Path) -> String {
    let check = |finding: &Finding| -> Value {
        let (detail, remedy) = match &finding.outcome {
            Ok(detail) => (detail, None),
            Err(trouble) => (&trouble.cause, Some(&trouble.remedy)),
        };
        json!({
            "name": finding.check,
            "works": finding.outcome.is_ok(),
            "needed": finding.need == Need::Always,
            "detail": detail,
            "remedy": remedy,
        })
    };
    let checks: Vec<Value> = findings.iter().map(check).collect();
    let fit = !findings.iter().any(Finding::is_fatal);
    let document = json!({ "fit": fit, "directory": directory.to_string_lossy(), "checks": checks });
    format!("{document:#}\n")
}

fn shown(text: &str) -> String {
    Printable(text.as_bytes()).to_string()
}
