//! `info --output=json` of every file, as the outcome's version prints it: byte for byte after the whitelist.
//!
//! The recordings merged versions that differed only in `actual-size`, lengths and vmdk identifiers; their first one's bytes stand for all.
//! Cannot see: human output, `--backing-chain`, and fields that neither the recording nor the product prints.

use super::length::{self, Allowed};
use super::{Evidence, Finding, Judging, Strictness, unified_diff};
use crate::case::Outcome;
use crate::text;
use crate::whitelist::{Comparison, FileLength};

/// What the comparison of an outcome gave.
#[derive(Debug, Default)]
pub struct InfoVerdict {
    /// Differences.
    pub findings: Vec<Finding>,
    /// Whether the whitelist was needed.
    pub whitelisted: bool,
}

/// Compares info of every file.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, version: &str, judging: &Judging<'_>) -> InfoVerdict {
    let mut verdict = InfoVerdict::default();
    for (name, recorded) in &outcome.files {
        let Some(now) = evidence.after.get(name) else { continue };
        if recorded.info.is_none() && recorded.info_error.is_none() {
            continue;
        }
        let output = match judging.program.info(version, evidence.folder, name) {
            Ok(output) => output,
            Err(error) => {
                verdict.findings.push(Finding::file("info", name, format!("cannot run: {error}")));
                continue;
            }
        };
        let folder = evidence.folder.to_string_lossy();
        let stderr = text::as_instar(&text::universal(&output.stderr, &folder));
        match (&recorded.info, &recorded.info_error) {
            (Some(recorded), _) => {
                let actual = String::from_utf8_lossy(&output.stdout);
                let varies_up_to = match length::allowed(evidence, outcome, name, judging.strictness) {
                    // Too long is the length oracle's finding; here it has to be the real one.
                    _ if judging.strictness == Strictness::Unseen => Some(u64::MAX),
                    Some(Allowed::UpTo(longest)) => Some(longest),
                    _ => None,
                };
                let length = FileLength { real: now.length, varies_up_to };
                match judging.whitelist.compare(recorded, &actual, length) {
                    Comparison::Equal => {}
                    Comparison::EqualAfterWhitelist => verdict.whitelisted = true,
                    Comparison::Different => {
                        let diff = format!("\n{}{stderr}", unified_diff(recorded, &actual));
                        verdict.findings.push(Finding::file("info", name, diff));
                    }
                }
            }
            (None, Some(error)) => {
                let error = text::as_instar(error);
                if output.rc == Some(0) || stderr != error {
                    let diff = format!("fails there:\n{}", unified_diff(&error, &stderr));
                    verdict.findings.push(Finding::file("info", name, diff));
                }
            }
            (None, None) => {}
        }
    }
    verdict
}
