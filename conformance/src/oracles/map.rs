//! Allocation in each file itself: nowhere fatter than in every recorded version that ended alike.
//!
//! Order of fatness at a byte: not in this file, zero by metadata, stored data. A byte is too fat if no recorded version is as fat
//! there. Leaner passes: whether the guest's view is still right is what the content oracle says.
//! Cannot see: raw files and external data files (holes of the host's file system decide there, nothing was recorded), preallocation
//! behind zero clusters, and where a cluster lies in the file.

use super::{Evidence, Finding, Strictness};
use crate::allocation::{self, Fatness};
use crate::case::Outcome;

/// Compares allocation.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome, strictness: Strictness) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, recorded) in &outcome.files {
        let now = evidence.readings.get(name).and_then(|reading| reading.map.as_ref());
        let (Some(recorded), Some(now)) = (&recorded.map, now) else { continue };
        let now_pieces = allocation::as_recorded(now);
        if strictness == Strictness::SameProgram && now_pieces != *recorded {
            let text = format!(
                "recorded {} pieces, now {}: {}",
                recorded.len(),
                now_pieces.len(),
                first_difference(recorded, &now_pieces)
            );
            findings.push(Finding::file("map", name, text));
            continue;
        }
        let fattest = Fatness::of_any(evidence.case.states(name, outcome.rc).filter_map(|state| state.map.as_deref()));
        if let Some(excess) = fattest.first_excess(&Fatness::of(&now_pieces)) {
            findings.push(Finding::file("map", name, excess));
        }
    }
    findings
}

fn first_difference(recorded: &[crate::case::MapPiece], now: &[crate::case::MapPiece]) -> String {
    let at = recorded.iter().zip(now).take_while(|(a, b)| a == b).count();
    format!("recorded {:?}, now {:?}", recorded.get(at), now.get(at))
}
