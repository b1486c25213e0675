//! Internal snapshots: what each holds itself is the same as before, and what it shows through its chain is what was recorded.
//!
//! The first is read from the fixture and holds for every command and file; the second only where the recording holds digests (those of the
//! stored corpus and of the differential runner). Cannot see: saved states of virtual machines; names and dates are info's.

use super::{Evidence, Finding};
use crate::case::{FileState, Outcome};
use crate::digest;
use crate::fixture::Workspace;
use crate::image::qcow2::Qcow2;
use crate::image::{Chain, ImageError};
use std::collections::BTreeMap;
use std::path::Path;

/// Compares the contents of snapshots.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut original = None;
    let exists = |name: &str| name.ends_with(".qcow2") && evidence.after.contains_key(name);
    for (name, state) in outcome.files.iter().filter(|(name, _)| exists(name)) {
        if let Some(recorded) = &state.snapshots {
            let now = shown(&evidence.folder.join(name));
            if now.as_ref().ok() != Some(recorded) {
                findings.push(Finding::file("snapshots", name, format!("recorded {recorded:?}, now {now:?}")));
            }
        }
        if evidence.before.get(name).is_none_or(|before| evidence.after.get(name) == Some(before)) {
            continue;
        }
        if original.is_none() {
            original = Workspace::unpack(&evidence.case.fixture).ok();
        }
        let Some(original) = &original else { continue };
        let before = held(&original.path().join(name)).unwrap_or_default();
        if before.is_empty() {
            continue;
        }
        let now = held(&evidence.folder.join(name));
        if now.as_ref().ok() != Some(&before) {
            findings.push(Finding::file("snapshots", name, format!("held {before:?}, now {now:?}")));
        }
    }
    findings
}

/// What this crate's reader sees, for a recording; nothing where there is no snapshot.
pub fn record(folder: &Path, name: &str, state: &mut FileState) {
    state.snapshots = shown(&folder.join(name)).ok().filter(|found| !found.is_empty());
}

/// Digest of what every snapshot shows through the file's chain, by identifier.
fn shown(path: &Path) -> Result<BTreeMap<String, String>, ImageError> {
    let mut digests = BTreeMap::new();
    for snapshot in Qcow2::open(path)?.snapshots()? {
        digests.insert(snapshot.id.clone(), digest::of_chain(&Chain::open_at(path, &snapshot)?)?);
    }
    Ok(digests)
}

/// Digest of what every snapshot holds in the file itself.
fn held(path: &Path) -> Result<BTreeMap<String, String>, ImageError> {
    let mut digests = BTreeMap::new();
    for snapshot in Qcow2::open(path)?.snapshots()? {
        digests.insert(snapshot.id.clone(), Qcow2::open_at(path, &snapshot)?.own_digest()?);
    }
    Ok(digests)
}
