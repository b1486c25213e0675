//! Runs a case with a program, reads what it left, and lets every oracle compare it with every recorded outcome.

use crate::case::{Case, DataError, Outcome};
use crate::fixture::Workspace;
use crate::image::{Chain, qcow2};
use crate::oracles::{self, Evidence, Finding, Judging, Reading, Strictness};
use crate::runner::{Program, format_of};
use crate::{digest, folder, roles};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What was found for one version.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Differences; none: equal.
    pub findings: Vec<Finding>,
    /// Info JSON was equal only after the whitelist.
    pub whitelisted: bool,
}

/// Verdicts by version.
pub type Verdicts = BTreeMap<String, Verdict>;

/// Why a case could not be judged at all.
#[derive(Debug)]
pub enum JudgeError {
    /// A fixture or recording is broken.
    Data(DataError),
    /// The program could not be started.
    Run(io::Error),
}

impl std::fmt::Display for JudgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data(_) => f.write_str("the case's data cannot be used"),
            Self::Run(_) => f.write_str("the program cannot be started"),
        }
    }
}

impl std::error::Error for JudgeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Data(error) => Some(error),
            Self::Run(error) => Some(error),
        }
    }
}

impl From<DataError> for JudgeError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

/// Reads one file of a finished run.
pub fn read_file(folder: &Path, name: &str) -> Reading {
    let path = folder.join(name);
    let format = format_of(name);
    let is_qcow2 = format == Some("qcow2");
    let check = is_qcow2.then(|| qcow2::check(&path).map_err(|e| e.to_string()));
    let bitmaps = qcow2::Qcow2::open(&path).ok().filter(|_| is_qcow2).and_then(|image| image.bitmaps().ok());
    let bitmaps = bitmaps.unwrap_or_default();
    match Chain::open(&path, format) {
        Err(error) => Reading { content: Err(error.to_string()), imago: None, map: None, check, bitmaps },
        Ok(chain) => Reading {
            content: digest::of_chain(&chain).map_err(|e| e.to_string()),
            imago: chain.imago_reads().then(|| oracles::imago_digest(&path)),
            map: if chain.depends_on_holes() { None } else { chain.map().ok() },
            check,
            bitmaps,
        },
    }
}

/// Runs `case` in a fresh copy of its fixture.
fn run<T>(case: &Case, program: &dyn Program, then: impl FnOnce(&Evidence<'_>) -> T) -> Result<T, JudgeError> {
    let workspace = Workspace::unpack(&case.fixture)?;
    let path = workspace.path();
    let before = folder::read(path)?;
    let roles = roles::of(case, path);
    let output = program.run_case(case, path).map_err(JudgeError::Run)?;
    let after = folder::read(path)?;
    let images = after.keys().filter(|name| format_of(name).is_some());
    let readings = images.map(|name| (name.clone(), read_file(path, name))).collect();
    Ok(then(&Evidence { case, folder: path, roles, before, after, output, readings }))
}

/// Runs `case` and judges it for every recorded version.
pub fn judge(case: &Case, judging: &Judging<'_>) -> Result<Verdicts, JudgeError> {
    run(case, judging.program, |evidence| {
        let mut verdicts = Verdicts::new();
        for outcome in &case.outcomes {
            let common = judge_common(evidence, outcome, judging);
            for version in &outcome.versions {
                let mut verdict = with_info(common.clone(), evidence, outcome, version, judging);
                if judging.program.is_shown_to_qemu_img() {
                    verdict.findings.extend(oracles::installed::judge(evidence, outcome, version));
                }
                verdicts.insert(version.clone(), verdict);
            }
        }
        verdicts
    })
}

/// Runs `case` and judges it for one version only.
pub fn judge_version(case: &Case, judging: &Judging<'_>, version: &str) -> Result<Verdict, JudgeError> {
    run(case, judging.program, |evidence| match case.outcome(version) {
        Some(outcome) => with_info(judge_common(evidence, outcome, judging), evidence, outcome, version, judging),
        None => Verdict::default(),
    })
}

/// What does not depend on the version among those of an outcome.
fn judge_common(evidence: &Evidence<'_>, outcome: &Outcome, judging: &Judging<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let findings = &mut verdict.findings;
    if judging.strictness != Strictness::SameProgram {
        findings.extend(oracles::untouched::judge(evidence));
    }
    if !evidence.ended_like(outcome) {
        // The texts and files of a run that ended otherwise are not comparable.
        findings.extend(oracles::exit::judge(evidence, outcome));
        return verdict;
    }
    findings.extend(oracles::stdout::judge(evidence, outcome));
    findings.extend(oracles::stderr::judge(evidence, outcome));
    findings.extend(oracles::folder::judge(evidence, outcome));
    findings.extend(oracles::content::judge(evidence, outcome));
    findings.extend(oracles::structure::judge(evidence, outcome, judging.strictness));
    findings.extend(oracles::snapshots::judge(evidence, outcome));
    findings.extend(oracles::bitmaps::judge(evidence, outcome));
    findings.extend(oracles::map::judge(evidence, outcome, judging.strictness));
    findings.extend(oracles::length::judge(evidence, outcome, judging.strictness));
    verdict
}

/// Adds what info prints for one version.
fn with_info(
    mut verdict: Verdict,
    evidence: &Evidence<'_>,
    outcome: &Outcome,
    version: &str,
    judging: &Judging<'_>,
) -> Verdict {
    if evidence.ended_like(outcome) {
        let info = oracles::info::judge(evidence, outcome, version, judging);
        verdict.findings.extend(info.findings);
        verdict.whitelisted = info.whitelisted;
    }
    verdict
}
