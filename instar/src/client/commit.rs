//! A commit, and what it reports.

use std::path::PathBuf;

use serde::Deserialize;

use super::running::Report;
use super::settings::{Settings, Words, builder};
use super::stats::Stats;
use super::values::{Afterwards, BackingName, Cache};

/// Merges an overlay into its backing file, or into an image further down.
///
/// Stopped at any moment, by [`kill`](super::Running::kill), a crash or a power loss, it leaves a chain that reads the same, and
/// carrying it out again completes it.
///
/// ```no_run
/// # use instar::client::{Afterwards, Cache, Commit};
/// let report = Commit::new("top.qcow2").base("base.qcow2").afterwards(Afterwards::Delete).cache(Cache::None).run()?;
/// assert!(report.overlay_deleted);
/// # Ok::<(), instar::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Commit {
    pub(super) settings: Settings,
    base: Option<BackingName>,
    afterwards: Option<Afterwards>,
    cache: Option<Cache>,
    bytes_per_second: Option<u64>,
    sibling_directories: Vec<PathBuf>,
    is_forced: bool,
    verifies: bool,
    counts: bool,
}

builder!(Commit, CommitReport);

impl Commit {
    /// Commits this overlay.
    #[must_use]
    pub fn new(overlay: impl Into<PathBuf>) -> Self {
        Self {
            settings: Settings::of(overlay.into()),
            base: None,
            afterwards: None,
            cache: None,
            bytes_per_second: None,
            sibling_directories: Vec::new(),
            is_forced: false,
            verifies: false,
            counts: false,
        }
    }

    /// The image to commit into, instead of the overlay's own backing file; it must be in the overlay's chain. The overlay then
    /// stays as it is, unless [`afterwards`](Self::afterwards) says otherwise.
    #[must_use]
    pub fn base(mut self, base: impl Into<BackingName>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// What becomes of the overlay. Without it, it is emptied where no base is named and its format is emptied by qemu-img too.
    #[must_use]
    pub fn afterwards(mut self, afterwards: Afterwards) -> Self {
        self.afterwards = Some(afterwards);
        self
    }

    /// How the files of the whole chain are read and written.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The most bytes to write per second; 0 for no limit. At most [`i64::MAX`].
    #[must_use]
    pub fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = Some(bytes_per_second);
        self
    }

    /// Refuses if another image in this directory is based on the base. Can be given more than once.
    #[must_use]
    pub fn check_siblings(mut self, directory: impl Into<PathBuf>) -> Self {
        self.sibling_directories.push(directory.into());
        self
    }

    /// Goes on where other overlays, internal snapshots of an overlay that is to be deleted, or a base that only looks raw would be
    /// a reason to refuse.
    #[must_use]
    pub fn force(mut self, is_forced: bool) -> Self {
        self.is_forced = is_forced;
        self
    }

    /// Reads the result again in a fresh sandbox, from the disk, and compares it, before the overlay is emptied or deleted.
    #[must_use]
    pub fn verify(mut self, verifies: bool) -> Self {
        self.verifies = verifies;
        self
    }

    /// Reports what it took.
    #[must_use]
    pub fn stats(mut self, is_wanted: bool) -> Self {
        self.counts = is_wanted;
        self
    }

    /// What stands behind `commit`.
    pub(super) fn options(&self, words: &mut Words) {
        words.option("--base", self.base.as_ref().map(BackingName::as_os_str));
        if let Some(afterwards) = self.afterwards {
            words.flag(afterwards.option(), true);
        }
        words.option("--cache", self.cache.map(Cache::word));
        words.option("--rate-limit", self.bytes_per_second.map(|bytes| bytes.to_string()));
        words.many("--check-siblings", &self.sibling_directories);
        words.flag("--force", self.is_forced);
        words.flag("--verify", self.verifies);
        words.flag("--stats", self.counts);
    }

    fn words(&self) -> Words {
        let mut words = Words::of(&["commit"]);
        words.option("--progress", Some("json"));
        self.options(&mut words);
        words
    }
}

/// What a commit has done.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct CommitReport {
    /// The overlay, as named.
    pub overlay: String,
    /// Its format.
    pub overlay_format: String,
    /// The image that was committed into, as found from the overlay.
    pub backing: String,
    /// Its format.
    pub backing_format: String,
    /// Clusters of the base that were written, zeroed or given up.
    pub clusters_committed: u64,
    /// Bytes of the disk that the base received.
    pub bytes_committed: u64,
    /// Clusters that the overlay gave up; 0 where it was not emptied.
    pub overlay_clusters_cleared: u64,
    /// Whether the overlay was deleted.
    #[serde(default)]
    pub overlay_deleted: bool,
    /// Whether the result was read again.
    #[serde(default)]
    pub verified: bool,
    /// What it took, where that was asked for.
    pub stats: Option<Stats>,
    /// Warnings, and whatever else the program has said, line by line.
    #[serde(skip)]
    pub messages: Vec<String>,
}

impl Report for CommitReport {
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self> {
        Ok(Self { messages, ..serde_json::from_slice(answer)? })
    }
}
