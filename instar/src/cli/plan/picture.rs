//! The layers for a terminal: a row each, topmost first, from the first byte of the disk to the last.

use super::account::Account;
use super::map::{Cell, Map};
use crate::cli::info::size;
use crate::text::Printable;

const LEGEND: &str = "█ stored  ▓▒░ stored in part  · zeros  (blank) not held: what lies below shows  > is written";

/// The picture and its legend.
pub(super) fn render(account: &Account, map: &Map) -> String {
    let labels: Vec<String> =
        account.layers.iter().map(|layer| Printable(layer.filename.as_bytes()).to_string()).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let mut text =
        format!("{} of disk, a column is {}:\n", size::for_people(map.size_bytes), size::for_people(map.column_bytes));
    for ((layer, label), row) in account.layers.iter().zip(&labels).zip(&map.rows) {
        let mark = if layer.is_target { '>' } else { ' ' };
        let cells: String = (0..).zip(row).map(|(column, cell)| symbol(cell, map.bytes_of_column(column))).collect();
        text.push_str(&format!("{mark} {label:width$} |{cells}|\n"));
    }
    text + LEGEND + "\n"
}

fn symbol(cell: &Cell, column_bytes: u64) -> char {
    match cell.stored_eighths(column_bytes) {
        8 => '█',
        6..8 => '▓',
        3..6 => '▒',
        1..3 => '░',
        _ if cell.zero_bytes > 0 => '·',
        _ => ' ',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_says_how_much_is_stored() {
        let cell = |data_bytes, zero_bytes| Cell { data_bytes, compressed_bytes: 0, zero_bytes };
        let symbols: String = [cell(0, 0), cell(0, 9), cell(1, 7), cell(4, 0), cell(7, 1), cell(8, 0)]
            .iter()
            .map(|cell| symbol(cell, 8))
            .collect();
        assert_eq!(symbols, " ·░▒▓█");
    }
}
