//! The matrix tests: one test a case, judged for every version, compared with the ledger.

use crate::case::{self, Case, Operation};
use crate::judge;
use crate::ledger::Ledger;
use crate::oracles::{Judging, Strictness, installed};
use crate::runner::{InProcess, Product, Program, QemuImg, Sandbox};
use crate::whitelist::Whitelist;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// Cases in which qemu-img corrupts an image in an order that varies: when it is replayed, only how it ends is judged.
const NOT_DETERMINISTIC: [&str; 2] = ["commit-broken-base-refcount-zero", "commit-broken-base-l2-overlaps-refcounts"];

fn fail(finding: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {finding}");
    ExitCode::FAILURE
}

/// A whole run: nothing on the command line selects tests.
fn is_whole(arguments: &Arguments) -> bool {
    arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored
}

/// Runs the matrix of one operation for the product.
pub fn product(op: Operation) -> ExitCode {
    let arguments = Arguments::from_args();
    let loaded =
        case::load_all(op).and_then(|cases| Ok((cases, Ledger::load()?, Whitelist::load()?, case::versions()?)));
    let (cases, ledger, whitelist, versions) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(error),
    };
    if !arguments.list {
        announce(&versions);
    }
    let (ledger, whitelist) = (Arc::new(ledger), Arc::new(whitelist));
    let product: Arc<OnceLock<Result<Product, String>>> = Arc::default();
    let trials = cases.into_iter().map(|case| {
        let (ledger, whitelist, product) = (Arc::clone(&ledger), Arc::clone(&whitelist), Arc::clone(&product));
        Trial::test(case.name.clone(), move || {
            let product = product.get_or_init(Product::find).as_ref().map_err(Failed::from)?;
            product_trial(&case, product, &ledger, &whitelist)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    finish(&conclusion, &arguments, &[(op.word(), &whitelist)])
}

/// Runs both matrices for the product in this process: the verdicts must be those of the built program, so ledger and
/// whitelist are the same.
pub fn in_process() -> ExitCode {
    both(|| Ok(InProcess))
}

/// Runs both matrices for the built program in the sandbox that needs no KVM, with the same verdicts.
pub fn process_sandbox() -> ExitCode {
    both(|| Product::find().map(|product| product.in_sandbox(Sandbox::Process)))
}

/// Runs both matrices for a program, which is looked for when the first case needs it.
fn both<P: Program + Send + 'static>(find: fn() -> Result<P, String>) -> ExitCode {
    let arguments = Arguments::from_args();
    let program: Arc<OnceLock<Result<P, String>>> = Arc::default();
    let mut trials = Vec::new();
    let mut whitelists = Vec::new();
    for op in [Operation::Commit, Operation::Rebase] {
        let loaded = case::load_all(op).and_then(|cases| Ok((cases, Ledger::load()?, Whitelist::load()?)));
        let (cases, ledger, whitelist) = match loaded {
            Ok((cases, ledger, whitelist)) => (cases, Arc::new(ledger), Arc::new(whitelist)),
            Err(error) => return fail(error),
        };
        trials.extend(cases.into_iter().map(|case| {
            let (ledger, whitelist, program) = (Arc::clone(&ledger), Arc::clone(&whitelist), Arc::clone(&program));
            Trial::test(case.name.clone(), move || {
                let program = program.get_or_init(find).as_ref().map_err(Failed::from)?;
                product_trial(&case, program, &ledger, &whitelist)
            })
        }));
        whitelists.push((op.word(), whitelist));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let whitelists: Vec<(&str, &Whitelist)> = whitelists.iter().map(|(run, whitelist)| (*run, &**whitelist)).collect();
    finish(&conclusion, &arguments, &whitelists)
}

fn announce(versions: &[String]) {
    let installed = installed::versions();
    let (present, absent): (Vec<&String>, Vec<&String>) = versions.iter().partition(|v| installed.contains(v));
    let list = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    eprintln!("qemu-img asked for its own opinion: {}; not installed: {}", list(present), list(absent));
}

fn product_trial(case: &Case, program: &dyn Program, ledger: &Ledger, whitelist: &Whitelist) -> Result<(), Failed> {
    let judging = Judging { program, whitelist, strictness: Strictness::Product };
    let verdicts = judge::judge(case, &judging).map_err(|error| chain_of(&error))?;
    let text = ledger.disagreements(&case.name, &verdicts);
    if text.is_empty() { Ok(()) } else { Err(format!("{text}reproduce: {}\n", program.describe(case)).into()) }
}

fn chain_of(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain_of(source)),
        None => error.to_string(),
    }
}

/// What the trials found, and what the whitelist of each run found.
fn finish(conclusion: &Conclusion, arguments: &Arguments, whitelists: &[(&str, &Whitelist)]) -> ExitCode {
    let all = whitelists.iter().flat_map(|(run, whitelist)| whitelist.disagreements(run));
    let disagreements: Vec<String> = if is_whole(arguments) { all.collect() } else { Vec::new() };
    for line in &disagreements {
        eprintln!("whitelist.toml: {line}");
    }
    if conclusion.has_failed() || !disagreements.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The harness judging an installed qemu-img by the recordings of its own version: every case must come out equal.
pub fn qemu_img() -> ExitCode {
    let arguments = Arguments::from_args();
    let loaded = case::load_all(Operation::Commit).and_then(|mut cases| {
        cases.extend(case::load_all(Operation::Rebase)?);
        Ok((cases, Whitelist::load()?, case::versions()?))
    });
    let (cases, whitelist, versions) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(error),
    };
    let Some(qemu) = QemuImg::installed().into_iter().find(|q| versions.iter().any(|v| v == q.version())) else {
        eprintln!(
            "qemu_img_self_test: no qemu-img of a recorded version in INSTAR_QEMU_IMG or PATH; every case is listed as ignored"
        );
        let trials = cases.into_iter().map(|case| Trial::test(case.name, || Ok(())).with_ignored_flag(true));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    };
    let (qemu, whitelist) = (Arc::new(qemu), Arc::new(whitelist));
    let trials = cases.into_iter().map(|case| {
        let (qemu, whitelist) = (Arc::clone(&qemu), Arc::clone(&whitelist));
        Trial::test(case.name.clone(), move || qemu_trial(&case, &qemu, &whitelist))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    finish(&conclusion, &arguments, &[("qemu-img", &whitelist)])
}

fn qemu_trial(case: &Case, qemu: &QemuImg, whitelist: &Whitelist) -> Result<(), Failed> {
    let judging = Judging { program: qemu, whitelist, strictness: Strictness::SameProgram };
    let mut verdict = judge::judge_version(case, &judging, qemu.version()).map_err(|error| chain_of(&error))?;
    if NOT_DETERMINISTIC.contains(&case.name.as_str()) {
        verdict.findings.retain(|finding| ["exit", "stdout", "folder"].contains(&finding.oracle));
    }
    let findings: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    if findings.is_empty() {
        return Ok(());
    }
    Err(format!(
        "case {}, version {}\n{}\nreproduce: {}\n",
        case.name,
        qemu.version(),
        findings.join("\n"),
        qemu.describe(case)
    )
    .into())
}
