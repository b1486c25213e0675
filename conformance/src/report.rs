//! How close the product is, as one table: every case and version with its outcome, totals per operation and version.

use crate::case::{self, Case, DataError, Operation};
use crate::judge::{self, Verdict, Verdicts};
use crate::ledger::{Ledger, Meaning};
use crate::oracles::{Judging, Strictness};
use crate::runner::Product;
use crate::whitelist::Whitelist;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How a case came out for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Everything as recorded, byte for byte.
    Equal,
    /// Equal apart from whitelisted fields of info JSON.
    EqualAfterWhitelist,
    /// Listed: qemu-img does worse.
    Better,
    /// Listed: instar refuses.
    Refused,
    /// Listed: not done yet.
    Todo,
    /// Not listed.
    Different,
}

impl Cell {
    /// All, in the order of the tables.
    pub const ALL: [Self; 6] =
        [Self::Equal, Self::EqualAfterWhitelist, Self::Better, Self::Refused, Self::Todo, Self::Different];

    /// Column head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::EqualAfterWhitelist => "equal after whitelist",
            Self::Better => "better",
            Self::Refused => "refused",
            Self::Todo => "todo",
            Self::Different => "different",
        }
    }

    fn of(ledger: &Ledger, case: &str, version: &str, verdict: &Verdict) -> Self {
        if verdict.findings.is_empty() {
            return if verdict.whitelisted { Self::EqualAfterWhitelist } else { Self::Equal };
        }
        match ledger.meaning(case, version, &verdict.findings) {
            Some(Meaning::Better) => Self::Better,
            Some(Meaning::Refused) => Self::Refused,
            Some(Meaning::Todo) => Self::Todo,
            None => Self::Different,
        }
    }
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub case: String,
    /// Its operation.
    pub op: Operation,
    /// One outcome a version, in the order of [`Report::versions`].
    pub cells: Vec<Cell>,
    /// What differs, without repetition.
    pub findings: Vec<String>,
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Recorded versions, oldest first.
    pub versions: Vec<String>,
    /// Cases, commit before rebase.
    pub rows: Vec<Row>,
}

impl Report {
    /// Runs every case whose name contains `filter`.
    pub fn run(product: &Product, filter: &str) -> Result<Self, DataError> {
        let mut cases = case::load_all(Operation::Commit)?;
        cases.extend(case::load_all(Operation::Rebase)?);
        cases.retain(|case| case.name.contains(filter));
        let (ledger, whitelist, versions) = (Ledger::load()?, Whitelist::load()?, case::versions()?);
        let judging = Judging { program: product, whitelist: &whitelist, strictness: Strictness::Product };
        let mut judged = judge_all(&cases, &judging);
        let row = |case: &Case| {
            let verdicts = judged.remove(&case.name).unwrap_or_default();
            let nothing = Verdict::default();
            let verdict = |version: &String| verdicts.get(version).unwrap_or(&nothing);
            let cells = versions.iter().map(|v| Cell::of(&ledger, &case.name, v, verdict(v))).collect();
            let mut findings: Vec<String> =
                versions.iter().flat_map(|v| &verdict(v).findings).map(ToString::to_string).collect();
            findings.sort();
            findings.dedup();
            Row { case: case.name.clone(), op: case.op, cells, findings }
        };
        let rows = cases.iter().map(row).collect();
        Ok(Self { versions, rows })
    }

    /// Number of cells of each kind for one operation and version (or all versions).
    pub fn total(&self, op: Operation, version: Option<usize>) -> BTreeMap<Cell, usize> {
        let mut total = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.op == op) {
            for (index, cell) in row.cells.iter().enumerate() {
                if version.is_none_or(|wanted| wanted == index) {
                    *total.entry(*cell).or_default() += 1;
                }
            }
        }
        total
    }

    /// The totals as text with aligned columns.
    pub fn terminal(&self) -> String {
        let mut text = format!("{:<18}", "");
        for cell in Cell::ALL {
            let _ = write!(text, "{:>24}", cell.title());
        }
        for op in [Operation::Commit, Operation::Rebase] {
            for (index, version) in self.versions.iter().map(Some).chain([None]).enumerate() {
                let total = self.total(op, version.map(|_| index));
                let _ = write!(text, "\n{:<18}", format!("{} {}", op.word(), version.map_or("all", String::as_str)));
                for cell in Cell::ALL {
                    let _ = write!(text, "{:>24}", total.get(&cell).copied().unwrap_or(0));
                }
            }
        }
        text.push('\n');
        for row in self.rows.iter().filter(|row| row.cells.contains(&Cell::Different)) {
            let _ = writeln!(text, "\n{}", row.case);
            for finding in &row.findings {
                let _ = writeln!(text, "  {}", finding.trim_end().replace('\n', "\n  "));
            }
        }
        text
    }
}

/// Judges the cases on all cores; a case that cannot be judged counts as a difference of its own.
fn judge_all(cases: &[Case], judging: &Judging<'_>) -> BTreeMap<String, Verdicts> {
    let next = AtomicUsize::new(0);
    let judged = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdicts = judge::judge(case, judging).unwrap_or_else(|error| {
                let failed = crate::oracles::Finding::run("harness", format!("{error:?}"));
                let verdict = Verdict { findings: vec![failed], whitelisted: false };
                case.outcomes.iter().flat_map(|o| &o.versions).map(|v| (v.clone(), verdict.clone())).collect()
            });
            judged.lock().expect("no panic holds it").insert(case.name.clone(), verdicts);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    judged.into_inner().expect("no panic holds it")
}
