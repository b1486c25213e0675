//! One random case from plan to verdict: built, packed, recorded with qemu-img, run by the product, judged.

use super::builder::{BuildError, Builder};
use super::plan::Plan;
use super::rules::{Rules, Sorted};
use crate::case::Case;
use crate::fixture;
use crate::judge::{self, JudgeError};
use crate::oracles::{Finding, Judging, Strictness};
use crate::recorder;
use crate::runner::{Product, QemuImg};
use crate::whitelist::Whitelist;
use std::path::Path;
use tempfile::TempDir;

/// Runs of qemu-img that settle which lengths a file can have, where the first look differs.
const RUNS: usize = 6;

/// Everything that trials share.
#[derive(Debug)]
pub struct Bench {
    /// Makes the images.
    pub builder: Builder,
    /// The program to compare with.
    pub qemu: QemuImg,
    /// The program that is judged.
    pub product: Product,
    /// Fields of info that may differ.
    pub whitelist: Whitelist,
    /// Classes of differences that are meant.
    pub rules: Rules,
}

/// A judged case; its fixture lives as long as this value.
#[derive(Debug)]
pub struct Trial {
    /// With qemu-img's outcome.
    pub case: Case,
    /// What was found.
    pub sorted: Sorted,
    folder: TempDir,
}

impl Trial {
    /// Where the packed fixture lies.
    pub fn fixture(&self) -> &Path {
        self.folder.path()
    }
}

/// Why there is no verdict.
#[derive(Debug)]
pub enum TrialError {
    /// The plan makes no sense.
    Build(BuildError),
    /// A program or the data failed.
    Judge(JudgeError),
}

impl std::fmt::Display for TrialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Build(error) => write!(f, "{error}"),
            Self::Judge(error) => write!(f, "{error}: {:?}", std::error::Error::source(error)),
        }
    }
}

impl From<BuildError> for TrialError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<std::io::Error> for TrialError {
    fn from(error: std::io::Error) -> Self {
        Self::Build(BuildError::Run(error))
    }
}

impl From<JudgeError> for TrialError {
    fn from(error: JudgeError) -> Self {
        Self::Judge(error)
    }
}

impl Bench {
    /// Builds and packs the images of a plan; `level` is zstd's.
    pub fn prepare(&self, plan: &Plan, name: &str, level: i32) -> Result<(Case, TempDir), TrialError> {
        let packed = tempfile::Builder::new().prefix("instar-differential-").tempdir()?;
        {
            let (built, scratch) = (tempfile::tempdir()?, tempfile::tempdir()?);
            self.builder.build(plan, built.path(), scratch.path())?;
            fixture::pack(built.path(), packed.path(), level)?;
        }
        let fixture = packed.path().to_string_lossy().into_owned();
        Ok((Case { name: name.into(), op: plan.op, fixture, argv: plan.argv.clone(), outcomes: Vec::new() }, packed))
    }

    /// Runs and judges a plan.
    pub fn run(&self, plan: &Plan, name: &str) -> Result<Trial, TrialError> {
        let (case, folder) = self.prepare(plan, name, 1)?;
        let mut case = recorder::record_runs(&case, &self.qemu, &self.qemu, 1)?;
        let mut findings = self.judge(&case)?;
        if findings.iter().any(|finding| ["length", "info"].contains(&finding.oracle)) {
            case = recorder::record_runs(&case, &self.qemu, &self.qemu, RUNS)?;
            findings = self.judge(&case)?;
        }
        let sorted = self.rules.sort(&case, &case.outcomes[0], findings);
        Ok(Trial { case, sorted, folder })
    }

    /// As [`Bench::run`], packed tightly and with the lengths of several runs in the recording.
    pub fn run_for_storage(&self, plan: &Plan, name: &str) -> Result<Trial, TrialError> {
        let (case, folder) = self.prepare(plan, name, 19)?;
        let case = recorder::record_runs(&case, &self.qemu, &self.qemu, RUNS)?;
        let sorted = self.rules.sort(&case, &case.outcomes[0], self.judge(&case)?);
        Ok(Trial { case, sorted, folder })
    }

    /// Judges a recorded case for the version that was recorded.
    pub fn judge(&self, case: &Case) -> Result<Vec<Finding>, JudgeError> {
        judge_product(case, &self.product, &self.whitelist)
    }
}

/// Runs the product on a case with one recorded version; what was found.
pub fn judge_product(case: &Case, product: &Product, whitelist: &Whitelist) -> Result<Vec<Finding>, JudgeError> {
    let judging = Judging { program: product, whitelist, strictness: Strictness::Unseen };
    Ok(judge::judge(case, &judging)?.into_values().flat_map(|verdict| verdict.findings).collect())
}
