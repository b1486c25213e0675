//! What a guest reads through each file's chain: the recorded digest.
//!
//! Two readers answer, the `imago` crate (qcow2 and raw chains without subclusters and zstd) and this crate's own; both must agree.
//! For qed, qcow, vdi, vhdx, vpc, parallels and sparse vmdk only the own reader answers.
//! Cannot see: what snapshots hold, and bytes beyond the virtual size.

use super::{Evidence, Finding};
use crate::case::Outcome;

/// Compares digests; files that are no images by their bytes.
pub fn judge(evidence: &Evidence<'_>, outcome: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, recorded) in &outcome.files {
        let Some(now) = evidence.after.get(name) else { continue };
        if let Some(sha256) = &recorded.sha256 {
            if *sha256 != now.sha256 {
                findings.push(Finding::file("content", name, format!("SHA-256 recorded {sha256}, now {}", now.sha256)));
            }
            continue;
        }
        let Some(reading) = evidence.readings.get(name) else { continue };
        match (&recorded.content, &reading.content) {
            (Some(recorded), Ok(now)) if recorded == now => {}
            (None, Err(_)) => {}
            (recorded, now) => {
                let text = format!("recorded {}, now {}", recorded.as_deref().unwrap_or("unreadable"), show(now));
                findings.push(Finding::file("content", name, text));
            }
        }
        findings.extend(readers_agree(name, &reading.content, reading.imago.as_ref()));
    }
    findings
}

fn show(reading: &Result<String, String>) -> String {
    match reading {
        Ok(digest) => digest.clone(),
        Err(error) => format!("unreadable ({error})"),
    }
}

fn readers_agree(name: &str, own: &Result<String, String>, imago: Option<&Result<String, String>>) -> Option<Finding> {
    let imago = imago?;
    // imago refuses reserved bits in L2 entries, which qemu-img reads over.
    let stricter = imago.as_ref().is_err_and(|error| error.contains("reserved bits"));
    if stricter || own.as_ref().ok() == imago.as_ref().ok() {
        return None;
    }
    let text = format!("the readers disagree: own {}, imago {}", show(own), show(imago));
    Some(Finding::file("content", name, text))
}
