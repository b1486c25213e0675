//! `info --output=json` of every file, as the outcome's version prints it: byte for byte after the whitelist.
//!
//! Asked for one version of each outcome (which one changes from case to case; every twelfth case asks for all): the versions of an
//! outcome printed the same bytes.
//! Cannot see: human output, `--backing-chain`, and fields that neither the recording nor the product prints.

use super::length::recorded_range;
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

/// The versions to ask for: one of the outcome's, another one in every case; in every twelfth case all of them.
pub fn versions_to_ask<'a>(case: &str, outcome: &'a Outcome) -> Vec<&'a str> {
    let sum: usize = case.bytes().map(usize::from).sum();
    if sum.is_multiple_of(12) {
        return outcome.versions.iter().map(String::as_str).collect();
    }
    vec![&outcome.versions[sum % outcome.versions.len()]]
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
                let range = recorded_range(evidence.case, name, outcome.rc);
                let bounded = judging.strictness == Strictness::Product;
                let longest = |range: [u64; 2]| if bounded { range[1] } else { u64::MAX };
                let varies_up_to = range.filter(|range| range[0] != range[1]).map(longest);
                let length = FileLength { real: now.length, varies_up_to };
                match judging.whitelist.compare(recorded, &actual, length) {
                    Comparison::Equal => {}
                    Comparison::EqualAfterWhitelist => verdict.whitelisted = true,
                    Comparison::Different => {
                        let diff = format!("as {version} prints it:\n{}{stderr}", unified_diff(recorded, &actual));
                        verdict.findings.push(Finding::file("info", name, diff));
                    }
                }
            }
            (None, Some(error)) => {
                let error = text::as_instar(error);
                if output.rc == Some(0) || stderr != error {
                    let diff = format!("fails in {version}:\n{}", unified_diff(&error, &stderr));
                    verdict.findings.push(Finding::file("info", name, diff));
                }
            }
            (None, None) => {}
        }
    }
    verdict
}
