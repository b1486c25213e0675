//! The layers as an SVG picture that needs nothing else: no script, no font file, no style sheet.

use super::account::Account;
use super::human::headline;
use super::map::Map;
use crate::cli::info::size;
use crate::text::Printable;

const CELL_WIDTH: usize = 12;
const ROW_HEIGHT: usize = 30;
const BAR_HEIGHT: usize = 20;
const LEFT: usize = 20;
const TOP: usize = 60;
/// Room for a label above its row's bar.
const LABEL_HEIGHT: usize = 16;
const DATA_COLOUR: &str = "#2f6db3";
const COMPRESSED_COLOUR: &str = "#7b4fa3";
const ZERO_COLOUR: &str = "#d9d9d9";
const TARGET_COLOUR: &str = "#c0392b";
const FRAME_COLOUR: &str = "#808080";

/// The picture.
pub(super) fn render(account: &Account, map: &Map) -> String {
    let columns = map.rows.iter().map(Vec::len).max().unwrap_or(0);
    let bar_width = columns.max(1) * CELL_WIDTH;
    let rows_height = account.layers.len() * (ROW_HEIGHT + LABEL_HEIGHT);
    let (width, height) = (2 * LEFT + bar_width.max(560), TOP + rows_height + 40);
    let title = escaped(&format!("{}: {}", account.command, headline(account)));
    let axis =
        format!("{} of disk, a cell is {}", size::for_people(map.size_bytes), size::for_people(map.column_bytes));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"40\">{axis}</text>\n"
    );
    for (index, (layer, row)) in account.layers.iter().zip(&map.rows).enumerate() {
        let top = TOP + index * (ROW_HEIGHT + LABEL_HEIGHT);
        let note = if layer.is_target { ", is written" } else { "" };
        let label = escaped(&format!("{} ({}{note})", layer.filename, layer.format));
        text.push_str(&format!("<text x=\"{LEFT}\" y=\"{}\">{label}</text>\n", top + 11));
        let y = top + LABEL_HEIGHT;
        for (column, cell) in row.iter().enumerate() {
            let (x, bytes) = (LEFT + column * CELL_WIDTH, map.bytes_of_column(column));
            let mut rectangle = |colour: &str, opacity: f64| {
                text.push_str(&format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL_WIDTH}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\" \
                     fill-opacity=\"{opacity}\"/>\n"
                ));
            };
            let eighths = cell.stored_eighths(bytes);
            if cell.zero_bytes > 0 {
                rectangle(ZERO_COLOUR, 1.0);
            }
            if eighths > 0 {
                let colour = if cell.compressed_bytes > cell.data_bytes { COMPRESSED_COLOUR } else { DATA_COLOUR };
                rectangle(colour, f64::from(u32::try_from(eighths).unwrap_or(8)) / 8.0);
            }
        }
        let frame = if layer.is_target { TARGET_COLOUR } else { FRAME_COLOUR };
        text.push_str(&format!(
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{bar_width}\" height=\"{BAR_HEIGHT}\" fill=\"none\" stroke=\"{frame}\"/>\n"
        ));
    }
    text + &legend(TOP + rows_height + 14) + "</svg>\n"
}

fn legend(y: usize) -> String {
    let entries = [
        (DATA_COLOUR, "stored"),
        (COMPRESSED_COLOUR, "stored compressed"),
        (ZERO_COLOUR, "zeros"),
        ("#ffffff", "not held"),
    ];
    let entry = |(index, (colour, words)): (usize, (&str, &str))| {
        let x = LEFT + index * 140;
        format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\" stroke=\"{FRAME_COLOUR}\"/>\
             <text x=\"{}\" y=\"{}\">{words}</text>\n",
            x + 18,
            y + 11
        )
    };
    entries.into_iter().enumerate().map(entry).collect()
}

/// Text between tags; a file's name can be anything.
fn escaped(text: &str) -> String {
    // The two characters that XML knows no way to write.
    let printable = Printable(text.as_bytes()).to_string().replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    printable.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
