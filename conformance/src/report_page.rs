//! The report as one self-contained HTML page: a grid of cases and versions coloured by outcome.

use crate::case::Operation;
use crate::report::{Cell, Report};
use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:2px 6px;text-align:right}th:first-child,td:first-child{text-align:left}\
thead th{position:sticky;top:0;background:#fff}.v{writing-mode:vertical-rl;font-weight:normal}\
.c{width:1.1rem;min-width:1.1rem;height:1.1rem;padding:0;border:1px solid #fff}\
.equal{background:#2b8a3e}.equal-after-whitelist{background:#8ce99a}.better{background:#228be6}.refused{background:#f59f00}\
.todo{background:#ced4da}.different{background:#e03131}.key span{display:inline-block;width:1rem;height:1rem;margin:0 .3rem 0 1rem;vertical-align:-2px}\
details{margin:.2rem 0}pre{background:#f1f3f5;padding:.5rem;overflow:auto;text-align:left}";

fn class(cell: Cell) -> String {
    cell.title().replace(' ', "-")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Renders the page.
pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>instar and qemu-img</title><style>{STYLE}</style>\n"
    );
    page.push_str("<h1>instar and twenty versions of qemu-img</h1>\n<p class=\"key\">");
    for cell in Cell::ALL {
        let _ = write!(page, "<span class=\"{}\"></span>{}", class(cell), cell.title());
    }
    page.push_str("</p>\n");
    totals(report, &mut page);
    for op in [Operation::Commit, Operation::Rebase] {
        grid(report, op, &mut page);
    }
    page.push_str("</html>\n");
    page
}

fn totals(report: &Report, page: &mut String) {
    page.push_str("<table><thead><tr><th></th>");
    for cell in Cell::ALL {
        let _ = write!(page, "<th>{}</th>", cell.title());
    }
    page.push_str("</tr></thead>\n");
    for op in [Operation::Commit, Operation::Rebase] {
        let total = report.total(op, None);
        let _ = write!(page, "<tr><td>{}</td>", op.word());
        for cell in Cell::ALL {
            let _ = write!(page, "<td>{}</td>", total.get(&cell).copied().unwrap_or(0));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn grid(report: &Report, op: Operation, page: &mut String) {
    let _ = write!(page, "<h2>{}</h2>\n<table><thead><tr><th>case</th>", op.word());
    for version in &report.versions {
        let _ = write!(page, "<th class=\"v\">{}</th>", escape(version));
    }
    page.push_str("</tr></thead>\n");
    for row in report.rows.iter().filter(|row| row.op == op) {
        let name = escape(&row.case);
        if row.findings.is_empty() {
            let _ = write!(page, "<tr><td>{name}</td>");
        } else {
            let findings = escape(&row.findings.join("\n"));
            let _ = write!(page, "<tr><td><details><summary>{name}</summary><pre>{findings}</pre></details></td>");
        }
        for (cell, version) in row.cells.iter().zip(&report.versions) {
            let _ =
                write!(page, "<td class=\"c {}\" title=\"{}: {}\"></td>", class(*cell), escape(version), cell.title());
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;

    #[test]
    fn page_escapes_what_programs_said() {
        let row = Row {
            case: "a".into(),
            op: Operation::Commit,
            cells: vec![Cell::Different],
            findings: vec!["<script>".into()],
        };
        let page = html(&Report { versions: vec!["1.0".into()], rows: vec![row] });
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
        assert!(page.contains("class=\"c different\""));
    }
}
