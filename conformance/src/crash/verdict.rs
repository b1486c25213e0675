//! What must hold of a state that a crash left, and of what the same command makes of it. Reads with this crate's own readers.
//!
//! Cannot see: what only the host program would say about the state; damage in files of other formats than qcow2 that does not
//! show in what they read as.

use super::trace::{FileSet, Run, Trace};
use crate::content::Content;
use crate::image::qcow2::Qcow2;
use crate::image::{Chain, Files, ImageError, Source, qcow2};
use crate::runner::format_of;
use crate::runner::inprocess::{Disk, Disks, carry_out};
use instar_abi::report::{ReportHeader, outcome};
use instar_abi::wire::Wire;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Looks files up by their names, `..` resolved.
struct InMemory<'a>(&'a FileSet);

impl Files for InMemory<'_> {
    fn open(&self, path: &Path) -> Result<Source, ImageError> {
        let mut name = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(name.pop()),
                Component::Normal(part) => name.push(part),
                _ => {}
            }
        }
        let disk = self.0.get(&name).ok_or_else(|| ImageError(format!("{}: no such file", path.display())))?;
        Ok(Source::new(disk.clone(), disk.length_bytes()))
    }
}

fn format(name: &Path) -> Option<&str> {
    format_of(name.to_str()?)
}

fn content(files: &FileSet, name: &Path) -> Result<Content, String> {
    let chain = Chain::open_in(&InMemory(files), name, format(name)).map_err(|error| error.to_string())?;
    Content::of(&chain).map_err(|error| error.to_string())
}

/// The name of the backing file that an image records.
fn backing(files: &FileSet, name: &Path) -> Option<String> {
    let chain = Chain::open_in(&InMemory(files), name, format(name)).ok()?;
    chain.top_backing().map(|backing| backing.name.clone())
}

/// Corruptions of a qcow2 image, those of refcounts left out where these mean nothing.
fn corruptions(files: &FileSet, name: &Path) -> Result<(u64, String), String> {
    let found = qcow2::check_in(&InMemory(files), name).map_err(|error| format!("cannot be checked: {error}"))?;
    let excused = if found.is_dirty { found.of_refcounts } else { 0 };
    Ok((found.corruptions - excused, found.notes.join("; ")))
}

/// What one case's states are compared with.
pub struct Judge<'a> {
    trace: &'a Trace,
    shown_before: Result<Content, String>,
    backing_before: Option<String>,
    backing_after: Option<String>,
    /// Every file that changes, as it reads afterwards.
    after: BTreeMap<&'a PathBuf, Result<Content, String>>,
    corruptions_before: BTreeMap<&'a PathBuf, u64>,
    /// Images with bitmaps that record writes, and what they showed before.
    recorded: BTreeMap<&'a PathBuf, Content>,
}

impl<'a> Judge<'a> {
    /// Reads the files of a trace before and after.
    pub fn new(trace: &'a Trace) -> Self {
        // What the data file of an overlay holds that nothing refers to is a leak.
        let own_data = Chain::open_in(&InMemory(&trace.before), &trace.overlay, format(&trace.overlay));
        let own_data = own_data.ok().and_then(|chain| Some(trace.overlay.with_file_name(chain.top_data_file()?)));
        let changed = || trace.run.changed_files().chain([&trace.overlay]);
        let qcow2: Vec<&PathBuf> = changed().filter(|name| format(name) == Some("qcow2")).collect();
        Self {
            trace,
            shown_before: content(&trace.before, &trace.overlay),
            backing_before: backing(&trace.before, &trace.overlay),
            backing_after: backing(&trace.after, &trace.overlay),
            after: changed()
                .filter(|name| trace.after.contains_key(*name) && own_data.as_ref() != Some(name))
                .map(|name| (name, content(&trace.after, name)))
                .collect(),
            recorded: qcow2
                .iter()
                .copied()
                .filter(|name| {
                    Qcow2::open_in(&InMemory(&trace.before), name)
                        .and_then(|image| image.enabled_bitmaps())
                        .is_ok_and(|it| !it.is_empty())
                })
                .filter_map(|name| Some((name, content(&trace.before, name).ok()?)))
                .collect(),
            corruptions_before: qcow2
                .into_iter()
                .map(|name| (name, corruptions(&trace.before, name).map_or(0, |(count, _)| count)))
                .collect(),
        }
    }

    /// Judges a state.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(&self, disks: Disks) -> Result<(), String> {
        let mut files = self.trace.before.clone();
        self.trace.run.put_back(disks, &mut files);
        self.judge_files(&files)?;
        let run = self.run_for(&files);
        let mut disks = run.disks(&files);
        let area = carry_out(run.operation, &run.job, &mut disks)
            .map_err(|error| format!("the same command once more: {error}"))?;
        let report = ReportHeader::get(&area);
        if report.outcome != outcome::DONE {
            let length = usize::try_from(report.text_length_bytes).unwrap_or(0).min(report.text.len());
            let text = String::from_utf8_lossy(&report.text[..length]).into_owned();
            return Err(format!("the same command once more fails: {text}"));
        }
        run.put_back(disks, &mut files);
        self.judge_completion(&files).map_err(|finding| format!("after the same command once more: {finding}"))
    }

    /// Judges the files as they are, without carrying anything out.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_files(&self, files: &FileSet) -> Result<(), String> {
        self.judge_structure(files)?;
        self.judge_bitmaps(files)?;
        self.judge_overlay(files)
    }

    /// A bit too few costs an incremental backup data: whatever reads differently has its bit.
    fn judge_bitmaps(&self, files: &FileSet) -> Result<(), String> {
        for (name, before) in &self.recorded {
            let now = content(files, name)?;
            for bitmap in Qcow2::open_in(&InMemory(files), name)
                .and_then(|image| image.enabled_bitmaps())
                .map_err(|error| error.to_string())?
            {
                let changed = now.differences(before, bitmap.granularity_bytes);
                if let Some(byte) = changed.into_iter().find(|byte| !bitmap.names(*byte)) {
                    let (name, bitmap) = (name.display(), bitmap.name);
                    return Err(format!("{name}: bitmap {bitmap} does not record a change at byte {byte}"));
                }
            }
        }
        Ok(())
    }

    fn judge_structure(&self, files: &FileSet) -> Result<(), String> {
        for (name, allowed) in &self.corruptions_before {
            let disk = &files[*name];
            if self.is_known(name, disk) {
                continue;
            }
            let (count, notes) = corruptions(files, name).map_err(|error| format!("{}: {error}", name.display()))?;
            if count > *allowed {
                return Err(format!("{}: {count} corruptions: {notes}", name.display()));
            }
        }
        Ok(())
    }

    /// Whether a file is as it was before.
    fn is_known(&self, name: &Path, disk: &Disk) -> bool {
        self.trace.before.get(name).is_some_and(|before| before.is_shared_with(disk))
    }

    fn judge_overlay(&self, files: &FileSet) -> Result<(), String> {
        let shown = content(files, &self.trace.overlay);
        let has_moved = self.trace.is_unsafe && backing(files, &self.trace.overlay) != self.backing_before;
        let expected = if has_moved { &self.after[&self.trace.overlay] } else { &self.shown_before };
        same(&shown, expected).map_err(|finding| format!("the overlay {finding}"))
    }

    /// The job that the command line would make of the same command.
    fn run_for(&self, files: &FileSet) -> &'a Run {
        match &self.trace.again {
            Some(again) if self.backing_before != self.backing_after => {
                let is_new = backing(files, &self.trace.overlay) == self.backing_after;
                if is_new { again } else { &self.trace.run }
            }
            _ => &self.trace.run,
        }
    }

    /// Judges the files after the command has succeeded.
    ///
    /// # Errors
    /// What differs from an uninterrupted run.
    pub fn judge_completion(&self, files: &FileSet) -> Result<(), String> {
        self.judge_bitmaps(files)?;
        if files.iter().all(|(name, disk)| self.trace.after.get(name).is_some_and(|after| after.equals(disk))) {
            return Ok(());
        }
        self.judge_structure(files)?;
        self.after.iter().try_for_each(|(name, expected)| {
            same(&content(files, name), expected).map_err(|finding| format!("{} {finding}", name.display()))
        })
    }
}

fn same(now: &Result<Content, String>, expected: &Result<Content, String>) -> Result<(), String> {
    match (now, expected) {
        (Ok(now), Ok(expected)) => match now.first_difference(expected) {
            None => Ok(()),
            Some(byte) => Err(format!("reads differently at byte {byte}")),
        },
        (Err(_), Err(_)) => Ok(()),
        (Err(error), Ok(_)) => Err(format!("cannot be read: {error}")),
        (Ok(_), Err(error)) => Err(format!("can be read, which was not expected: {error}")),
    }
}
