//! File lengths: exactly the recorded one where qemu-img gives it deterministically, else no longer than the longest recorded.
//!
//! Not deterministic: where the recorded runs of an outcome differ, and every base that grew in a commit (qemu-img's parallel requests
//! allocate in varying order, so a single recorded length is luck).
//! Cannot see: blocks that the host's file system uses, and unused space inside of the file (leaks are the structure oracle's).

use super::{Evidence, Finding, Strictness};
use crate::case::{Operation, Outcome};
use crate::image::qcow2::Qcow2;
use crate::runner::format_of;
use std::path::Path;

/// Which lengths are right for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// This one.
    Exactly(u64),
    /// Any up to this one.
    UpTo(u64),
}

/// What the recordings allow for one file of an outcome. A few runs of qemu-img do not show its longest file: replaying it, only
/// exact lengths are judged.
pub fn allowed(evidence: &Evidence<'_>, outcome: &Outcome, file: &str, strictness: Strictness) -> Option<Allowed> {
    let own = outcome.files.get(file)?.length_range;
    let longest = evidence.case.states(file, outcome.rc).map(|state| state.length_range[1]).max()?;
    let grew = evidence.before.get(file).is_some_and(|before| before.length < longest);
    let target = evidence.case.op == Operation::Commit && evidence.roles.backing.as_deref() == Some(file);
    let varies = own[0] != own[1] || target && grew && format_of(file) != Some("raw");
    Some(match (varies, strictness) {
        (_, Strictness::Unseen) | (true, Strictness::Product) => Allowed::UpTo(longest),
        (false, _) => Allowed::Exactly(own[0]),
        (true, Strictness::SameProgram) => Allowed::UpTo(u64::MAX),
    })
}

/// Compares lengths.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, strictness: Strictness) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, now) in &evidence.after {
        match allowed(evidence, outcome, name, strictness) {
            Some(Allowed::Exactly(length)) if now.length != length => {
                findings.push(Finding::file("length", name, format!("recorded {length}, now {}", now.length)));
            }
            Some(Allowed::UpTo(longest)) if now.length > longest => {
                let why = explanation(&evidence.folder.join(name), now.length, longest);
                let text = format!("recorded at most {longest}, now {}{why}", now.length);
                findings.push(Finding::file("length", name, text));
            }
            _ => {}
        }
    }
    findings
}

/// What a qcow2 file of `length` bytes holds where the longest that qemu-img left has `longest` bytes.
fn explanation(path: &Path, length: u64, longest: u64) -> &'static str {
    let Ok(image) = Qcow2::open(path) else { return "" };
    let free = image.free_bytes().unwrap_or(0);
    let used = length.saturating_sub(free);
    match used.checked_sub(longest) {
        None | Some(0) => "; the difference is free clusters",
        Some(more) if more > longest.next_multiple_of(image.cluster_size()) - longest => "",
        Some(_) if free == 0 => "; the difference is the rest of the last cluster",
        Some(_) => "; the difference is free clusters and the rest of the last one",
    }
}
