//! Findings in words, and as JSON.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

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

/// An object with a list of checks, one a line.
pub(super) fn json(findings: &[Finding], directory: &Path) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let check = |finding: &Finding| {
        let (detail, remedy) = match &finding.outcome {
            Ok(detail) => (detail, "null".to_owned()),
            Err(trouble) => (&trouble.cause, text(&trouble.remedy)),
        };
        format!(
            "        {{\"name\": {}, \"works\": {}, \"needed\": {}, \"detail\": {}, \"remedy\": {remedy}}}",
            text(finding.check),
            finding.outcome.is_ok(),
            finding.need == Need::Always,
            text(detail),
        )
    };
    let checks: Vec<String> = findings.iter().map(check).collect();
    format!(
        "{{\n    \"fit\": {},\n    \"directory\": {},\n    \"checks\": [\n{}\n    ]\n}}\n",
        !findings.iter().any(Finding::is_fatal),
        text(&directory.to_string_lossy()),
        checks.join(",\n"),
    )
}

fn shown(text: &str) -> String {
    Printable(text.as_bytes()).to_string()
}
