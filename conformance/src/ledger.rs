//! The ledger of known differences: data, checked both ways. A difference that is not listed fails, a listed one that vanished too.

use crate::case::{Case, DataError};
use crate::judge::Verdicts;
use crate::oracles::Finding;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What a difference means for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Meaning {
    /// instar does better: qemu-img crashes, hangs, corrupts or writes more than needed.
    Better,
    /// instar refuses what qemu-img does.
    Refused,
    /// Not done yet.
    Todo,
}

/// One entry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Case names; `*` stands for any characters.
    pub cases: Vec<String>,
    /// Cases that the patterns catch and that do not differ.
    #[serde(default)]
    pub except: Vec<String>,
    /// Versions that differ; all if left out. `a..b` names a range of recorded versions, both ends included.
    #[serde(default)]
    pub versions: Vec<String>,
    /// Oracles that differ; `*`: at least one, no matter which.
    pub oracles: Vec<String>,
    /// Files that differ, as patterns; any if left out.
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
    difference: Vec<Difference>,
}

/// All entries.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: Vec<Difference>,
    versions: Vec<String>,
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
pub fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(tail) = name.strip_prefix(start) else { return false };
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| glob(rest, &tail[at..]))
        }
    }
}

fn any_glob(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern, name))
}

impl Difference {
    /// Whether the entry speaks of this case.
    pub fn names_case(&self, case: &str) -> bool {
        any_glob(&self.cases, case) && !any_glob(&self.except, case)
    }

    /// Whether the entry speaks of this version.
    pub fn names_version(&self, version: &str, all: &[String]) -> bool {
        let position = |name: &str| all.iter().position(|v| v == name);
        self.versions.is_empty()
            || self.versions.iter().any(|item| match item.split_once("..") {
                None => item == version,
                Some((first, last)) => match (position(first), position(last), position(version)) {
                    (Some(first), Some(last), Some(at)) => (first..=last).contains(&at),
                    _ => false,
                },
            })
    }

    fn covers(&self, finding: &Finding) -> bool {
        let file = finding.file.as_deref();
        any_glob(&self.oracles, finding.oracle)
            && (self.files.is_empty() || file.is_some_and(|file| any_glob(&self.files, file)))
    }
}

impl Ledger {
    /// Loads `ledger.toml`.
    pub fn load() -> Result<Self, DataError> {
        let path = paths::own("ledger.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::new(&path, e))?;
        Self::parse(&text, crate::case::versions()?).map_err(|e| DataError::new(&path, e))
    }

    /// Reads entries; `versions` are all recorded ones, oldest first.
    pub fn parse(text: &str, versions: Vec<String>) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|e| e.to_string())?;
        for entry in &document.difference {
            if entry.reason.trim().is_empty() {
                return Err(format!("no reason given for {:?}", entry.cases));
            }
            if !versions.iter().any(|version| entry.names_version(version, &versions)) {
                return Err(format!("{:?} names no recorded version: {:?}", entry.cases, entry.versions));
            }
        }
        Ok(Self { entries: document.difference, versions })
    }

    /// The entries in the order of the file.
    pub fn entries(&self) -> &[Difference] {
        &self.entries
    }

    /// Patterns that name no case of `cases` and no case of another operation.
    pub fn idle_patterns(&self, cases: &[Case]) -> Vec<String> {
        let patterns = self.entries.iter().flat_map(|entry| entry.cases.iter().chain(&entry.except));
        patterns.filter(|pattern| !cases.iter().any(|case| glob(pattern, &case.name))).cloned().collect()
    }

    /// The meaning of a version's findings if all of them are listed.
    pub fn meaning(&self, case: &str, version: &str, findings: &[Finding]) -> Option<Meaning> {
        let mut strongest = None;
        for finding in findings {
            let entry = self.entries.iter().find(|entry| {
                entry.names_case(case) && entry.names_version(version, &self.versions) && entry.covers(finding)
            })?;
            strongest = strongest.max(Some(entry.meaning));
        }
        strongest
    }

    /// What a case's verdicts and the ledger disagree about, in words; empty: they agree.
    pub fn disagreements(&self, case: &str, verdicts: &Verdicts) -> String {
        let mut text = String::new();
        let mut shown: Vec<(Finding, Vec<&str>)> = Vec::new();
        for (version, verdict) in verdicts {
            for finding in &verdict.findings {
                if self.meaning(case, version, std::slice::from_ref(finding)).is_some() {
                    continue;
                }
                match shown.iter_mut().find(|(known, _)| known == finding) {
                    Some((_, versions)) => versions.push(version),
                    None => shown.push((finding.clone(), vec![version])),
                }
            }
        }
        for (finding, versions) in shown {
            let _ = writeln!(text, "case {case}, version {}\n  {finding}", versions.join(" "));
        }
        for entry in self.entries.iter().filter(|entry| entry.names_case(case)) {
            self.vanished(entry, case, verdicts, &mut text);
        }
        text
    }

    fn vanished(&self, entry: &Difference, case: &str, verdicts: &Verdicts, text: &mut String) {
        for oracle in &entry.oracles {
            let gone: Vec<&str> = verdicts
                .iter()
                .filter(|(version, _)| entry.names_version(version, &self.versions))
                .filter(|(_, verdict)| !verdict.findings.iter().any(|f| glob(oracle, f.oracle) && entry.covers(f)))
                .map(|(version, _)| version.as_str())
                .collect();
            // The installed qemu-img judges one version only: its differences count as there if any version shows them.
            let everywhere = gone.len() == verdicts.len();
            if !gone.is_empty() && (oracle != "installed" || everywhere) {
                let _ = writeln!(
                    text,
                    "case {case}, version {}\n  the ledger lists a difference of {oracle} that is not there: {}",
                    gone.join(" "),
                    entry.reason
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Verdict;

    const TEXT: &str = "[[difference]]\ncases=[\"a-*\"]\nversions=[\"1.0..2.0\"]\noracles=[\"exit\"]\nmeaning=\"better\"\nreason=\"r\"\n";

    fn ledger() -> Ledger {
        Ledger::parse(TEXT, ["1.0", "2.0", "3.0"].map(String::from).to_vec()).expect("valid")
    }

    fn verdicts(differing: &[&str]) -> Verdicts {
        ["1.0", "2.0", "3.0"]
            .iter()
            .map(|version| {
                let findings = if differing.contains(version) { vec![Finding::run("exit", "x")] } else { Vec::new() };
                ((*version).to_owned(), Verdict { findings, whitelisted: false })
            })
            .collect()
    }

    #[test]
    fn listed_differences_agree() {
        assert_eq!(ledger().disagreements("a-b", &verdicts(&["1.0", "2.0"])), "");
        assert_eq!(ledger().disagreements("other", &verdicts(&[])), "");
    }

    #[test]
    fn unlisted_difference_is_reported() {
        assert!(ledger().disagreements("a-b", &verdicts(&["1.0", "2.0", "3.0"])).contains("version 3.0"));
        assert!(ledger().disagreements("other", &verdicts(&["1.0"])).contains("exit: x"));
    }

    #[test]
    fn vanished_difference_is_reported() {
        let text = ledger().disagreements("a-b", &verdicts(&["1.0"]));
        assert!(text.contains("version 2.0") && text.contains("not there"), "{text}");
    }

    #[test]
    fn stars_match_any_characters() {
        assert!(glob("rebase-*", "rebase-c4k") && glob("*", "") && glob("a*c*e", "abcde"));
        assert!(!glob("rebase-*", "commit-rebase-") && !glob("a", "ab"));
    }
}
