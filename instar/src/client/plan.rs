//! What a commit or a rebase would do.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;

use super::commit::Commit;
use super::error::Error;
use super::planned::{FileLength, Map, Moves, PlannedFile, PlannedLayer};
use super::rebase::Rebase;
use super::running::{Report, Running, start};
use super::settings::{Settings, Words};

/// Says what a commit or a rebase would do, and changes nothing.
///
/// What would keep the operation from being done keeps the plan from being made, with the same error.
///
/// ```no_run
/// # use instar::client::{Commit, Plan};
/// let commit = Commit::new("overlay.qcow2");
/// let plan = Plan::commit(&commit).run()?;
/// if plan.moves.bytes < 1 << 30 {
///     commit.run()?;
/// }
/// # Ok::<(), instar::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    planned: Planned,
    picture: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Planned {
    Commit(Commit),
    Rebase(Rebase),
}

impl Plan {
    /// Plans this commit.
    #[must_use]
    pub fn commit(commit: &Commit) -> Self {
        Self { planned: Planned::Commit(commit.clone()), picture: None }
    }

    /// Plans this rebase.
    #[must_use]
    pub fn rebase(rebase: &Rebase) -> Self {
        Self { planned: Planned::Rebase(rebase.clone()), picture: None }
    }

    /// Draws the layers into this file, which must not exist, as SVG.
    #[must_use]
    pub fn svg(mut self, path: impl Into<PathBuf>) -> Self {
        self.picture = Some(path.into());
        self
    }

    /// Only says how long files would become.
    #[must_use]
    pub fn measure(self) -> Measure {
        Measure { plan: self }
    }

    /// What the program will be started with, behind its own name.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        self.arguments_with(false)
    }

    /// Starts it, and comes back while it runs.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&self) -> Result<Running<PlanReport>, Error> {
        start(self.settings(), &self.arguments())
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// Every way in which that can fail.
    pub fn run(&self) -> Result<PlanReport, Error> {
        self.start()?.wait()
    }

    fn settings(&self) -> &Settings {
        match &self.planned {
            Planned::Commit(commit) => &commit.settings,
            Planned::Rebase(rebase) => &rebase.settings,
        }
    }

    fn arguments_with(&self, only_measures: bool) -> Vec<OsString> {
        let command = match &self.planned {
            Planned::Commit(_) => "commit",
            Planned::Rebase(_) => "rebase",
        };
        let mut words = Words::of(&["plan", command]);
        words.flag("--measure", only_measures);
        words.option("--svg", self.picture.as_ref());
        match &self.planned {
            Planned::Commit(commit) => commit.options(&mut words),
            Planned::Rebase(rebase) => rebase.options(&mut words),
        }
        self.settings().finish(words)
    }
}

/// Says how long the files of the image that is written would become, and how much more space they would take. Made by
/// [`Plan::measure`].
///
/// ```no_run
/// # use instar::client::{Commit, Plan};
/// let measured = Plan::commit(&Commit::new("overlay.qcow2")).measure().run()?;
/// let needed: u64 = measured.files.iter().map(|file| file.newly_stored_bytes).sum();
/// # Ok::<(), instar::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Measure {
    plan: Plan,
}

impl Measure {
    /// What the program will be started with, behind its own name.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        self.plan.arguments_with(true)
    }

    /// Starts it, and comes back while it runs.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&self) -> Result<Running<MeasureReport>, Error> {
        start(self.plan.settings(), &self.arguments())
    }

    /// Measures.
    ///
    /// # Errors
    /// Every way in which that can fail.
    pub fn run(&self) -> Result<MeasureReport, Error> {
        self.start()?.wait()
    }
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct PlanReport {
    /// `commit` or `rebase`.
    pub command: String,
    /// What the operation itself would report.
    pub moves: Moves,
    /// The images that take part, the overlay first.
    pub layers: Vec<PlannedLayer>,
    /// Every file that may be written.
    pub files: Vec<PlannedFile>,
    /// What the layers hold; `None` where they cannot be looked at.
    pub map: Option<Map>,
    /// Warnings, and whatever else the program has said, line by line.
    #[serde(skip)]
    pub messages: Vec<String>,
}

impl Report for PlanReport {
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self> {
        Ok(Self { messages, ..serde_json::from_slice(answer)? })
    }
}

/// What only has to do with the lengths of files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeasureReport {
    /// The files of the image that would be written.
    pub files: Vec<FileLength>,
    /// Warnings, and whatever else the program has said, line by line.
    pub messages: Vec<String>,
}

impl Report for MeasureReport {
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self> {
        Ok(Self { files: serde_json::from_slice(answer)?, messages })
    }
}
