//! A rebase, and what it reports.

use std::path::PathBuf;

use serde::Deserialize;

use super::running::Report;
use super::settings::{Settings, Words, builder};
use super::stats::Stats;
use super::values::{BackingName, Cache};

/// Changes what an overlay is based on. It shows the same afterwards, unless [`unsafe_mode`](Rebase::unsafe_mode) asks for less.
///
/// ```no_run
/// # use instar::client::Rebase;
/// let report = Rebase::onto("top.qcow2", "new.qcow2", "qcow2").compress(true).run()?;
/// println!("{} bytes had to be copied", report.bytes_copied);
/// Rebase::detach("other.qcow2").run()?;
/// # Ok::<(), instar::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rebase {
    pub(super) settings: Settings,
    /// The new backing file and its format; `None` for none.
    backing: Option<(BackingName, String)>,
    is_unsafe: bool,
    compresses: bool,
    shares: bool,
    cache: Option<Cache>,
    backing_cache: Option<Cache>,
    bytes_per_second: Option<u64>,
    verifies: bool,
    counts: bool,
}

builder!(Rebase, RebaseReport);

impl Rebase {
    /// Bases this overlay on another image of this format. The name is recorded in the overlay as it is.
    #[must_use]
    pub fn onto(overlay: impl Into<PathBuf>, backing: impl Into<BackingName>, format: impl Into<String>) -> Self {
        let backing = backing.into();
        let mut rebase = Self::detach(overlay);
        // For the program it would stand for none.
        if backing.as_os_str().is_empty() {
            rebase.settings.refusal = Some("The name of the new backing file is empty; Rebase::detach is for none");
        }
        Self { backing: Some((backing, format.into())), ..rebase }
    }

    /// Has this overlay stand alone.
    #[must_use]
    pub fn detach(overlay: impl Into<PathBuf>) -> Self {
        Self {
            settings: Settings::of(overlay.into()),
            backing: None,
            is_unsafe: false,
            compresses: false,
            shares: false,
            cache: None,
            backing_cache: None,
            bytes_per_second: None,
            verifies: false,
            counts: false,
        }
    }

    /// Changes only the name and looks at no data: the overlay shows the same only if the new backing file does. It need
    /// not exist.
    #[must_use]
    pub fn unsafe_mode(mut self, is_unsafe: bool) -> Self {
        self.is_unsafe = is_unsafe;
        self
    }

    /// Compresses what has to be copied.
    #[must_use]
    pub fn compress(mut self, compresses: bool) -> Self {
        self.compresses = compresses;
        self
    }

    /// Uses the new backing file even while somebody writes to it.
    #[must_use]
    pub fn force_share(mut self, shares: bool) -> Self {
        self.shares = shares;
        self
    }

    /// How the overlay and its old chain are read and written.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// How the new backing file and what lies below it are read.
    #[must_use]
    pub fn backing_cache(mut self, cache: Cache) -> Self {
        self.backing_cache = Some(cache);
        self
    }

    /// The most bytes to write per second; 0 for no limit. At most [`i64::MAX`].
    #[must_use]
    pub fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = Some(bytes_per_second);
        self
    }

    /// Reads the result again in a fresh sandbox, from the disk, and compares it, before the overlay names the new backing file.
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

    /// What stands behind `rebase`.
    pub(super) fn options(&self, words: &mut Words) {
        words.option("--backing", Some(self.backing.as_ref().map_or("".as_ref(), |(name, _)| name.as_os_str())));
        words.option("--backing-format", self.backing.as_ref().map(|(_, format)| format));
        words.flag("--backing-unsafe", self.is_unsafe);
        words.flag("--compress", self.compresses);
        words.flag("--force-share", self.shares);
        words.option("--cache", self.cache.map(Cache::word));
        words.option("--backing-cache", self.backing_cache.map(Cache::word));
        words.option("--rate-limit", self.bytes_per_second.map(|bytes| bytes.to_string()));
        words.flag("--verify", self.verifies);
        words.flag("--stats", self.counts);
    }

    fn words(&self) -> Words {
        let mut words = Words::of(&["rebase"]);
        self.options(&mut words);
        words
    }
}

/// How a rebase was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The overlay shows the same as before.
    Safe,
    /// Only the name was changed.
    Unsafe,
}

/// What a rebase has done.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct RebaseReport {
    /// The overlay, as named.
    pub overlay: String,
    /// Its format.
    pub overlay_format: String,
    /// How it was done.
    pub mode: Mode,
    /// Clusters of the overlay that received data or zeros.
    pub clusters_copied: u64,
    /// Bytes of the disk that the overlay received, zeros included.
    pub bytes_copied: u64,
    /// The new backing file, as recorded; `None` where there is none any more.
    pub new_backing: Option<String>,
    /// Whether the result was read again.
    #[serde(default)]
    pub verified: bool,
    /// What it took, where that was asked for.
    pub stats: Option<Stats>,
    /// Warnings, and whatever else the program has said, line by line.
    #[serde(skip)]
    pub messages: Vec<String>,
}

impl Report for RebaseReport {
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self> {
        Ok(Self { messages, ..serde_json::from_slice(answer)? })
    }
}
