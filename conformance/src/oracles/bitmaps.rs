//! Persistent bitmaps: none is lost, none forgets a bit, and the enabled ones of a file know every granule whose bytes changed.
//!
//! Where the recording holds bitmaps (the stored corpus and the differential runner's do), names, flags and granularity must be the same
//! and no bit may be set beyond the recorded ones. Cannot see: bitmaps in use (they vouch for nothing), and writes of the bytes that were
//! there already.

use super::{Evidence, Finding};
use crate::case::{FileState, Outcome};
use crate::fixture::Workspace;
use crate::image::qcow2::{Bitmap, Qcow2};
use crate::image::{Chain, ImageError};
use std::path::Path;

/// Compares bitmaps with those before the run and with the recorded ones.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut original = None;
    let exists = |name: &str| name.ends_with(".qcow2") && evidence.after.contains_key(name);
    for (name, state) in outcome.files.iter().filter(|(name, _)| exists(name)) {
        let now = evidence.readings.get(name).map_or(&[][..], |reading| &reading.bitmaps);
        if let Some(recorded) = &state.bitmaps {
            findings.extend(compare(name, recorded, now));
        }
        if evidence.before.get(name).is_none_or(|before| evidence.after.get(name) == Some(before)) {
            continue;
        }
        if original.is_none() {
            original = Workspace::unpack(&evidence.case.fixture).ok();
        }
        let Some(original) = &original else { continue };
        let path = original.path().join(name);
        let Ok(before) = Qcow2::open(&path).and_then(|image| image.bitmaps()) else { continue };
        if !before.is_empty() {
            findings.extend(sound(evidence, name, &before, &path));
        }
    }
    findings
}

/// What this crate's reader sees, for a recording; nothing where there is no bitmap.
pub fn record(folder: &Path, name: &str, state: &mut FileState) {
    let found = Qcow2::open(&folder.join(name)).and_then(|image| image.bitmaps()).unwrap_or_default();
    state.bitmaps = (!found.is_empty()).then_some(found);
}

fn compare(file: &str, recorded: &[Bitmap], now: &[Bitmap]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let head = |bitmap: &Bitmap| (bitmap.name.clone(), bitmap.granularity_bytes, bitmap.in_use, bitmap.enabled);
    let (theirs, ours): (Vec<_>, Vec<_>) = (recorded.iter().map(head).collect(), now.iter().map(head).collect());
    if theirs != ours {
        return vec![Finding::file("bitmaps", file, format!("recorded {theirs:?}, now {ours:?}"))];
    }
    for (recorded, now) in recorded.iter().zip(now).filter(|(recorded, _)| !recorded.in_use) {
        if let Some(run) = now.set.iter().find(|run| !recorded.covers(run[0], run[1])) {
            let text = format!("{}: granules {run:?} are set, recorded are {:?}", now.name, recorded.set);
            findings.push(Finding::file("bitmaps", file, text));
        }
    }
    findings
}

/// Bits only come, and come wherever bytes changed.
fn sound(evidence: &Evidence<'_>, file: &str, before: &[Bitmap], original: &Path) -> Vec<Finding> {
    let now = evidence.readings.get(file).map_or(&[][..], |reading| &reading.bitmaps);
    let mut findings = Vec::new();
    // What an unsafe rebase makes of the contents is no write.
    let is_unsafe = evidence.case.argv.iter().any(|argument| argument == "-u");
    for old in before.iter().filter(|bitmap| !bitmap.in_use) {
        let Some(new) = now.iter().find(|bitmap| bitmap.name == old.name) else {
            findings.push(Finding::file("bitmaps", file, format!("{} is gone", old.name)));
            continue;
        };
        if let Some(run) = old.set.iter().find(|run| !new.covers(run[0], run[1])) {
            findings.push(Finding::file("bitmaps", file, format!("{}: granules {run:?} were set before", old.name)));
        }
        if !old.enabled {
            if old.set != new.set {
                findings.push(Finding::file("bitmaps", file, format!("{} is disabled and changed", old.name)));
            }
            continue;
        }
        if is_unsafe {
            continue;
        }
        match unmarked(original, &evidence.folder.join(file), new) {
            Ok(None) => {}
            Ok(Some(granule)) => {
                let text = format!("{}: granule {granule} is not set, but its bytes changed", old.name);
                findings.push(Finding::file("bitmaps", file, text));
            }
            // The content oracle says what cannot be read.
            Err(_) => {}
        }
    }
    findings
}

/// The first granule that reads differently in the two files and is not set.
fn unmarked(before: &Path, after: &Path, bitmap: &Bitmap) -> Result<Option<u64>, ImageError> {
    let (before, after) = (Chain::open(before, Some("qcow2"))?, Chain::open(after, Some("qcow2"))?);
    let size = before.virtual_size().min(after.virtual_size());
    let mut start = 0;
    while start < size {
        let (old, new) = (before.piece_at(start)?, after.piece_at(start)?);
        let granule = start / bitmap.granularity_bytes;
        let end = ((granule + 1) * bitmap.granularity_bytes).min(size);
        let is_data = |piece: &crate::image::Piece| piece.kind == crate::image::Kind::Data;
        if !is_data(&old) && !is_data(&new) {
            start += old.length.min(new.length);
            continue;
        }
        if !bitmap.covers(granule, granule + 1) {
            let length = usize::try_from(end - start).map_err(|_| ImageError("granularity".into()))?;
            let (mut left, mut right) = (vec![0; length], vec![0; length]);
            before.read(start, &mut left)?;
            after.read(start, &mut right)?;
            if left != right {
                return Ok(Some(granule));
            }
        }
        start = end;
    }
    Ok(None)
}
