//! `docs/differences.md`, rendered from the ledger.

use crate::ledger::{Difference, Ledger, Meaning};
use std::fmt::Write;

fn title(meaning: Meaning) -> (&'static str, &'static str) {
    match meaning {
        Meaning::Better => {
            ("Better", "qemu-img crashes, hangs, corrupts an image or writes more than it needs; instar does not.")
        }
        Meaning::Refused => ("Refused", "instar says no, with a reason, where qemu-img goes on."),
        Meaning::Todo => ("Not done yet", "Work that is left."),
    }
}

fn list(items: &[String], otherwise: &str) -> String {
    if items.is_empty() {
        return otherwise.to_owned();
    }
    items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ")
}

fn row(entry: &Difference, text: &mut String) {
    let mut cases = list(&entry.cases, "");
    if !entry.except.is_empty() {
        let _ = write!(cases, " (not {})", list(&entry.except, ""));
    }
    let versions =
        if entry.versions.is_empty() { "all".to_owned() } else { entry.versions.join(", ").replace("..", " to ") };
    let mut what = entry.oracles.join(", ").replace('*', "any");
    if !entry.files.is_empty() {
        let _ = write!(what, " of {}", list(&entry.files, ""));
    }
    let reason = entry.reason.replace('|', "\\|").replace('\n', " ");
    let _ = writeln!(text, "| {} | {versions} | {what} | {reason} |", cases.replace('|', "\\|"));
}

/// The document.
pub fn render(ledger: &Ledger) -> String {
    let mut text = String::from(
        "# Known differences between instar and qemu-img\n\n\
         Rendered from `conformance/ledger.toml` by `cargo run -p conformance --bin differences`; the matrix tests check every line both ways.\n\
         `*` in a case name stands for any characters; a case is described by `instar-testdata/recordings/*/CASE.json`.\n",
    );
    for meaning in [Meaning::Better, Meaning::Refused, Meaning::Todo] {
        let entries: Vec<_> = ledger.entries().iter().filter(|entry| entry.meaning == meaning).collect();
        if entries.is_empty() {
            continue;
        }
        let (head, sentence) = title(meaning);
        let _ = write!(
            text,
            "\n## {head}\n\n{sentence}\n\n| cases | versions of qemu-img | what differs | why |\n|---|---|---|---|\n"
        );
        for entry in entries {
            row(entry, &mut text);
        }
    }
    text
}
