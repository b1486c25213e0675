//! A plan in words.

use super::account::{Account, Amount, PlannedFile};
use crate::cli::info::size;
use crate::text::Printable;

/// All of it, but for the picture.
pub(super) fn render(account: &Account) -> String {
    let mut text = format!("Plan of a {}, nothing was changed: {}.\n", account.command, headline(account));
    for layer in account.layers.iter().filter(|layer| layer.repairs > 0) {
        let name = Printable(layer.filename.as_bytes());
        let entries = counted(layer.repairs, "entry", "entries");
        text.push_str(&format!("'{name}' was not closed properly; corrected first: {entries}.\n"));
    }
    account.files.iter().for_each(|file| text.push_str(&paragraph(account, file)));
    text
}

/// How long the files would become that receive data.
pub(super) fn measure(account: &Account) -> String {
    let line = |file: &PlannedFile| {
        let name = Printable(file.filename.as_bytes());
        let stored = file.newly_stored_bytes;
        format!("{name}: {}; {stored} more bytes on the disk\n", length(file))
    };
    account.target_files().map(line).collect()
}

/// What it is all about, in half a sentence.
pub(super) fn headline(account: &Account) -> String {
    let moves = &account.moves;
    let target = account.layers.iter().find(|layer| layer.is_target);
    let target = target.map_or(String::new(), |layer| Printable(layer.filename.as_bytes()).to_string());
    let clusters = counted(moves.clusters, "cluster", "clusters");
    format!("'{target}' receives {} bytes of the disk in {clusters}", moves.bytes)
}

/// `1 entry`, `2 entries`.
fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn length(file: &PlannedFile) -> String {
    let (before, after) = (file.length_bytes, file.planned_length_bytes);
    match after.cmp(&before) {
        std::cmp::Ordering::Equal => format!("{after} bytes, as now"),
        std::cmp::Ordering::Greater => format!("{after} bytes, {} more than now", after - before),
        std::cmp::Ordering::Less => format!("{after} bytes, {} fewer than now", before - after),
    }
}

fn paragraph(account: &Account, file: &PlannedFile) -> String {
    let name = Printable(file.filename.as_bytes());
    if file.layer == 0 && account.moves.deletes_overlay {
        return format!("\n{name}\n  is deleted\n");
    }
    let mut text = format!("\n{name}\n  length        {}\n", length(file));
    let mut line = |what: &str, amount: Amount, remark: &str| {
        if amount.bytes > 0 {
            let extents = counted(amount.extents, "extent", "extents");
            let (bytes, people) = (amount.bytes, size::for_people(amount.bytes));
            text.push_str(&format!("  {what:13} {people} ({bytes} bytes) in {extents}{remark}\n"));
        }
    };
    line("copied to it", file.copied, "");
    line("written", file.written, ": tables, and data that is unpacked, packed or encrypted");
    line("zeroed", file.zeroed, "");
    line("given back", file.released, "");
    let mut amount = |what: &str, bytes: u64| {
        if bytes > 0 {
            text.push_str(&format!("  {what:13} {} ({bytes} bytes)\n", size::for_people(bytes)));
        }
    };
    amount("newly stored", file.newly_stored_bytes);
    amount("freed", file.freed_bytes);
    text
}
