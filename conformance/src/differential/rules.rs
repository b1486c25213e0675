//! Classes of differences that are meant, as data with a reason each (`differential.toml`): what the ledger is for the recorded cases.
//!
//! A finding is covered if one rule fits the case, the recorded end and the finding. Which rules were needed is counted: one that the
//! stored corpus does not need is an error.

use super::facts;
use crate::case::{Case, DataError, Operation, Outcome};
use crate::ledger::{Meaning, glob};
use crate::oracles::Finding;
use crate::paths;
use serde::Deserialize;
use std::collections::BTreeSet;

/// One class.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Short and unique.
    pub name: String,
    /// The command; either if left out.
    #[serde(default)]
    pub op: Option<Operation>,
    /// Arguments of which the command line has all; `!X`: does not have.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Facts that all hold (see [`facts`]); `!X`: does not.
    #[serde(default)]
    pub facts: Vec<String>,
    /// How qemu-img ended: `ok`, `error`, `killed` or `hangs`; any if left out.
    #[serde(default)]
    pub ended: Option<String>,
    /// Pattern for what qemu-img said on standard error.
    #[serde(default)]
    pub said: Option<String>,
    /// Oracles that may differ.
    pub oracles: Vec<String>,
    /// Patterns for the finding's text; any if left out.
    #[serde(default)]
    pub findings: Vec<String>,
    /// Patterns for the finding's file; any if left out.
    #[serde(default)]
    pub files: Vec<String>,
    /// What it means.
    pub meaning: Meaning,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rule: Vec<Rule>,
}

/// All classes.
#[derive(Clone, Debug)]
pub struct Rules(Vec<Rule>);

fn ended(rc: Option<i32>) -> &'static str {
    match rc {
        None => "hangs",
        Some(0) => "ok",
        Some(rc) if rc < 0 => "killed",
        Some(_) => "error",
    }
}

fn all_hold(demands: &[String], holds: impl Fn(&str) -> bool) -> bool {
    demands.iter().all(|demand| match demand.strip_prefix('!') {
        Some(not) => !holds(not),
        None => holds(demand),
    })
}

impl Rule {
    fn fits_case(&self, case: &Case, outcome: &Outcome, facts: &BTreeSet<String>) -> bool {
        self.op.is_none_or(|op| op == case.op)
            && all_hold(&self.argv, |argument| case.argv.iter().any(|a| a == argument))
            && all_hold(&self.facts, |fact| facts.contains(fact))
            && self.ended.as_deref().is_none_or(|word| word == ended(outcome.rc))
            && self.said.as_deref().is_none_or(|pattern| glob(pattern, &outcome.stderr))
    }

    fn covers(&self, finding: &Finding) -> bool {
        let file = finding.file.as_deref().unwrap_or_default();
        self.oracles.iter().any(|pattern| glob(pattern, finding.oracle))
            && (self.findings.is_empty() || self.findings.iter().any(|pattern| glob(pattern, &finding.text)))
            && (self.files.is_empty() || self.files.iter().any(|pattern| glob(pattern, file)))
    }
}

/// A case's findings, sorted by the rules.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    /// What no rule covers.
    pub open: Vec<Finding>,
    /// Names of the rules that were needed.
    pub needed: BTreeSet<String>,
}

impl Rules {
    /// Loads `differential.toml`.
    pub fn load() -> Result<Self, DataError> {
        let path = paths::own("differential.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::new(&path, e))?;
        Self::parse(&text).map_err(|e| DataError::new(&path, e))
    }

    /// Reads the document.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|e| e.to_string())?;
        let mut names = BTreeSet::new();
        for rule in &document.rule {
            if rule.reason.trim().is_empty() {
                return Err(format!("no reason given for {}", rule.name));
            }
            if !names.insert(&rule.name) {
                return Err(format!("{} appears twice", rule.name));
            }
        }
        Ok(Self(document.rule))
    }

    /// Names of all rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| rule.name.as_str())
    }

    /// Sorts the findings of a case.
    pub fn sort(&self, case: &Case, outcome: &Outcome, findings: Vec<Finding>) -> Sorted {
        let mut sorted = Sorted::default();
        if findings.is_empty() {
            return sorted;
        }
        let facts = facts::of(case);
        let fitting: Vec<&Rule> = self.0.iter().filter(|rule| rule.fits_case(case, outcome, &facts)).collect();
        for finding in findings {
            match fitting.iter().find(|rule| rule.covers(&finding)) {
                Some(rule) => {
                    sorted.needed.insert(rule.name.clone());
                }
                None => sorted.open.push(finding),
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str =
        "[[rule]]\nname=\"a\"\noracles=[\"exit\"]\nfindings=[\"recorded * now exit 0*\"]\nmeaning=\"better\"\n";

    #[test]
    fn refuse_rule_without_reason() {
        let error = Rules::parse(&format!("{RULE}reason=\" \"\n")).expect_err("no reason");
        assert_eq!(error, "no reason given for a");
    }

    #[test]
    fn a_finding_is_covered_only_by_its_oracle_and_text() {
        let rules = Rules::parse(&format!("{RULE}reason=\"r\"\n")).expect("valid");
        let covers = |oracle, text: &str| rules.0[0].covers(&Finding::run(oracle, text));
        assert!(covers("exit", "recorded exit 1, now exit 0; stderr now: "));
        assert!(!covers("exit", "recorded exit 0, now exit 1") && !covers("stderr", "recorded exit 1, now exit 0"));
    }

    #[test]
    fn demands_hold_or_do_not() {
        let holds = |word: &str| word == "x";
        assert!(all_hold(&["x".into(), "!y".into()], holds));
        assert!(!all_hold(&["!x".into()], holds) && !all_hold(&["y".into()], holds));
    }
}
