//! The opinion of every installed qemu-img of a recorded version about what the product left: its check, map, info and compare.
//!
//! Which binaries: INSTAR_QEMU_IMG or the one in PATH. Without one of a version, this oracle is silent for it (the matrix says so
//! by name); no offline test depends on it. Cannot see: what qemu-img's own reader does not notice.

use super::{Evidence, Finding};
use crate::allocation;
use crate::case::{MapKind, MapPiece, Operation, Outcome};
use crate::fixture::Workspace;
use crate::runner::{QemuImg, format_of};
use serde::Deserialize;
use std::sync::LazyLock;

static INSTALLED: LazyLock<Vec<QemuImg>> = LazyLock::new(QemuImg::installed);

/// The versions that can be asked.
pub fn versions() -> Vec<String> {
    INSTALLED.iter().map(|program| program.version().to_owned()).collect()
}

/// Asks the installed qemu-img of this version.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, version: &str) -> Vec<Finding> {
    let Some(qemu) = INSTALLED.iter().find(|program| program.version() == version) else { return Vec::new() };
    // A run that failed changed nothing (that is another oracle's finding), and there is nothing to ask about.
    if evidence.output.rc != Some(0) || outcome.rc != Some(0) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for name in evidence.after.keys().filter(|name| evidence.before.get(*name) != evidence.after.get(*name)) {
        findings.extend(check(qemu, evidence, name));
        findings.extend(map(qemu, evidence, name));
    }
    findings.extend(compare(qemu, evidence));
    findings
}

#[derive(Deserialize, Default)]
struct CheckAnswer {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    leaks: u64,
}

fn check(qemu: &QemuImg, evidence: &Evidence<'_>, name: &str) -> Option<Finding> {
    let Some(Ok(own)) = evidence.readings.get(name)?.check.as_ref() else { return None };
    let output = qemu.ask(evidence.folder, &["check", "--output=json", "-f", format_of(name)?, name]).ok()?;
    let answer: CheckAnswer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if (answer.corruptions, answer.leaks) == (own.corruptions, own.leaks) {
        return None;
    }
    let text = format!(
        "check: qemu-img counts {} corruptions and {} leaks, this crate {} and {} ({})",
        answer.corruptions,
        answer.leaks,
        own.corruptions,
        own.leaks,
        own.notes.join("; ")
    );
    Some(Finding::file("installed", name, text))
}

#[derive(Deserialize)]
struct MapAnswer {
    start: u64,
    length: u64,
    depth: usize,
    zero: bool,
    data: bool,
    #[serde(default = "yes")]
    present: bool,
}

fn yes() -> bool {
    true
}

/// qemu-img's map in the form of the recordings: merged, without host offsets.
fn merged(answers: &[MapAnswer]) -> Vec<MapPiece> {
    let mut pieces: Vec<MapPiece> = Vec::new();
    for answer in answers {
        let kind = match (answer.present, answer.data, answer.zero) {
            (false, ..) => MapKind::Absent,
            (true, true, _) => MapKind::Data,
            // Holes of the host's file system inside of a data cluster have a host offset and stay data.
            (true, false, true) => MapKind::Zero,
            (true, false, false) => MapKind::Data,
        };
        match pieces.last_mut() {
            Some(last) if (last.depth, last.kind) == (answer.depth, kind) => last.length += answer.length,
            _ => pieces.push(MapPiece { start: answer.start, length: answer.length, depth: answer.depth, kind }),
        }
    }
    pieces
}

fn map(qemu: &QemuImg, evidence: &Evidence<'_>, name: &str) -> Option<Finding> {
    // qemu-img's map shows a vhdx file as data from end to end.
    if evidence.after.keys().any(|name| name.ends_with(".vhdx")) {
        return None;
    }
    let own = allocation::as_recorded(evidence.readings.get(name)?.map.as_ref()?);
    let output = qemu.ask(evidence.folder, &["map", "--output=json", "-f", format_of(name)?, name]).ok()?;
    if output.rc != Some(0) {
        let text = format!("map fails: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        return Some(Finding::file("installed", name, text));
    }
    let answers: Vec<MapAnswer> = serde_json::from_slice(&output.stdout).ok()?;
    let theirs = merged(&answers);
    // qemu-img shows holes of the host's file system inside of data clusters as zero; they compare as data where this crate says data.
    let differs = theirs.iter().find(|piece| !covered(&own, piece));
    differs.map(|piece| {
        Finding::file("installed", name, format!("map: qemu-img sees {piece:?}, this crate's reader does not"))
    })
}

/// Whether every byte of `piece` is the same in `own`, taking zero inside of data of the same depth for a hole.
fn covered(own: &[MapPiece], piece: &MapPiece) -> bool {
    let end = piece.start + piece.length;
    own.iter().filter(|o| o.start < end && o.start + o.length > piece.start).all(|o| {
        o.depth == piece.depth && (o.kind == piece.kind || (o.kind == MapKind::Data && piece.kind == MapKind::Zero))
    })
}

/// Commit and safe rebase keep what FILE shows: compares it with FILE before the command.
fn compare(qemu: &QemuImg, evidence: &Evidence<'_>) -> Option<Finding> {
    let case = evidence.case;
    let unsafe_mode = case.op == Operation::Rebase && case.argv.iter().any(|argument| argument == "-u");
    let overlay = evidence.roles.overlay.as_deref().filter(|_| !unsafe_mode)?;
    // qemu-img finds an external data file from its working directory: both sides would read the same one.
    if evidence.before.keys().any(|name| name.ends_with(".data")) {
        return None;
    }
    let format = format_of(overlay)?;
    let original = Workspace::unpack(&case.fixture).ok()?;
    let before = original.path().join(overlay);
    let output =
        qemu.ask(evidence.folder, &["compare", "-f", format, "-F", format, &before.to_string_lossy(), overlay]).ok()?;
    if output.rc == Some(0) {
        return None;
    }
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(Finding::file("installed", overlay, format!("compare with FILE before the command: {}", said.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(start: u64, length: u64, present: bool, data: bool, zero: bool) -> MapAnswer {
        MapAnswer { start, length, depth: 0, zero, data, present }
    }

    #[test]
    fn map_answers_merge_by_kind_and_depth() {
        let answers =
            [answer(0, 4, true, true, false), answer(4, 4, true, true, false), answer(8, 4, false, false, true)];
        let kinds: Vec<_> = merged(&answers).iter().map(|p| (p.start, p.length, p.kind)).collect();
        assert_eq!(kinds, [(0, 8, MapKind::Data), (8, 4, MapKind::Absent)]);
    }

    #[test]
    fn other_kind_or_depth_is_not_covered() {
        let own = [MapPiece { start: 0, length: 8, depth: 0, kind: MapKind::Data }];
        let piece = |depth, kind| MapPiece { start: 2, length: 4, depth, kind };
        assert!(covered(&own, &piece(0, MapKind::Data)));
        assert!(covered(&own, &piece(0, MapKind::Zero)), "a hole inside of data");
        assert!(!covered(&own, &piece(0, MapKind::Absent)));
        assert!(!covered(&own, &piece(1, MapKind::Data)));
    }
}
