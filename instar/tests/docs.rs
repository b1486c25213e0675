//! The documentation holds together: the book lists every page, every link leads somewhere, and every command line of instar that
//! it shows is one that the program takes. Cannot see: whether what it says is true.

#[path = "common/lines.rs"]
mod lines;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lines::{must_parse, of_instar, words};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages below a folder.
fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let all = entries.flat_map(|path| if path.is_dir() { pages_below(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Every page that people read.
fn pages() -> Vec<PathBuf> {
    let mut pages = [pages_below(&root().join("docs")), pages_below(&root().join(".github"))].concat();
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    pages
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let kept = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Where the links of a page lead.
fn links(text: &str) -> Vec<String> {
    let ends = prose(text);
    ends.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn the_book_lists_every_page_once() {
    let docs = root().join("docs");
    let mut listed = links(&read(&docs.join("SUMMARY.md")));
    let mut found: Vec<String> = pages_below(&docs)
        .iter()
        .map(|page| page.strip_prefix(&docs).expect("below docs").to_str().expect("UTF-8").to_owned())
        .filter(|page| page != "SUMMARY.md")
        .collect();
    listed.sort();
    found.sort();
    assert_eq!(listed, found, "docs/SUMMARY.md and the pages in docs/ differ");
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let text = read(&page);
        let elsewhere = ["http://", "https://", "mailto:"];
        for link in links(&text).iter().filter(|link| !elsewhere.iter().any(|start| link.starts_with(start))) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            assert!(anchor.is_empty() || anchors(&read(&target)).contains(anchor), "{}: {link}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} links were found");
}

#[test]
fn pages_of_the_book_stay_in_the_book() {
    for page in pages_below(&root().join("docs")) {
        let out = links(&read(&page)).into_iter().find(|link| link.starts_with("../"));
        assert_eq!(out, None, "{} leads out of docs/, where the book has nothing", page.display());
    }
}

#[test]
fn every_command_line_that_is_shown_is_one_that_instar_takes() {
    let mut seen = 0;
    for page in pages() {
        let text = read(&page).replace("\\\n", " ");
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("$ ")) {
            if line.strip_prefix("sudo ").unwrap_or(line).starts_with("instar ") {
                must_parse(&of_instar(&words(line)).expect("instar"), &page.display().to_string());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} command lines were found");
}
