//! The stored corpus, replayed against the product without qemu-img: one test a case, and every rule must be needed by one of them.

use super::corpus;
use super::rules::Rules;
use super::trial::judge_product;
use crate::case::Case;
use crate::runner::Product;
use crate::whitelist::Whitelist;
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

/// What the trials share.
struct Shared {
    rules: Rules,
    whitelist: Whitelist,
    product: OnceLock<Result<Product, String>>,
    needed: Mutex<BTreeSet<String>>,
}

/// Replays every stored case.
pub fn run() -> ExitCode {
    let arguments = Arguments::from_args();
    let loaded = corpus::load(&corpus::folder()).and_then(|cases| Ok((cases, Rules::load()?, Whitelist::load()?)));
    let (cases, rules, whitelist) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shared = Arc::new(Shared { rules, whitelist, product: OnceLock::new(), needed: Mutex::default() });
    let trials = cases.into_iter().map(|case| {
        let shared = Arc::clone(&shared);
        Trial::test(case.name.clone(), move || replay(&case, &shared))
    });
    let is_whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let needed = shared.needed.lock().expect("no panic holds it");
    let idle: Vec<&str> = shared.rules.names().filter(|name| is_whole && !needed.contains(*name)).collect();
    for name in &idle {
        eprintln!("differential.toml: no stored case needs the rule {name}: remove it, or store one that does");
    }
    if conclusion.has_failed() || !idle.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay(case: &Case, shared: &Shared) -> Result<(), Failed> {
    let product = shared.product.get_or_init(Product::find).as_ref().map_err(Failed::from)?;
    let findings = judge_product(case, product, &shared.whitelist).map_err(|error| format!("{error:?}"))?;
    let sorted = shared.rules.sort(case, &case.outcomes[0], findings);
    shared.needed.lock().expect("no panic holds it").extend(sorted.needed);
    if sorted.open.is_empty() {
        return Ok(());
    }
    let findings: Vec<String> = sorted.open.iter().map(ToString::to_string).collect();
    Err(format!(
        "{} {}\n{}\nreproduce: cargo test -p conformance --test corpus -- --exact {}\n",
        case.op.word(),
        case.argv.join(" "),
        findings.join("\n"),
        case.name
    )
    .into())
}
