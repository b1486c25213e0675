//! Random cases against an installed qemu-img: `differential --seed N --cases M`.

use conformance::differential::builder::Builder;
use conformance::differential::plan::Plan;
use conformance::differential::rules::Rules;
use conformance::differential::trial::{Bench, Trial, TrialError};
use conformance::differential::{corpus, generator, shrinker};
use conformance::paths;
use conformance::runner::{Product, QemuImg};
use conformance::whitelist::Whitelist;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const USAGE: &str = "usage: differential --seed N --cases M [--threads N] [--small] [--no-shrink] [--show] [--out FOLDER] [--store FOLDER [--keep N] [--for-rules A,B]]
  --seed        the first seed; case i has seed N + i
  --cases       how many
  --threads     how many at a time (default: 2)
  --small       short disks and few writes, as in the stored corpus
  --no-shrink   failing cases are written out as they were drawn
  --show        print the plan of every case
  --out         where failing cases go (default: differential-failures in the target directory)
  --store       write small cases without unexplained difference there, in the layout of instar-testdata/corpus
  --keep        no more of them than this; the run ends then
  --for-rules   only those that need one of these rules of differential.toml";

/// A stored case takes no more than this, fixture and recording together.
const MAX_STORED_BYTES: u64 = 20 << 10;
/// As above, for a case that shows a rule.
const MAX_WANTED_BYTES: u64 = 60 << 10;

struct Options {
    seed: u64,
    cases: u64,
    threads: usize,
    small: bool,
    shrink: bool,
    show: bool,
    out: PathBuf,
    store: Option<PathBuf>,
    keep: u64,
    for_rules: Vec<String>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let out = paths::results("differential-failures");
    let mut options = Options {
        seed: 0,
        cases: 0,
        threads: 2,
        small: false,
        shrink: true,
        show: false,
        out,
        store: None,
        keep: u64::MAX,
        for_rules: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.as_str() {
            "--seed" => options.seed = value()?.parse()?,
            "--cases" => options.cases = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--small" => options.small = true,
            "--no-shrink" => options.shrink = false,
            "--show" => options.show = true,
            "--out" => options.out = value()?.into(),
            "--store" => options.store = Some(value()?.into()),
            "--keep" => options.keep = value()?.parse()?,
            "--for-rules" => options.for_rules = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(USAGE.into()),
        }
    }
    if options.cases == 0 { Err(USAGE.into()) } else { Ok(options) }
}

#[derive(Default)]
struct Totals {
    equal: u64,
    explained: u64,
    unbuildable: u64,
    failing: Vec<u64>,
    stored: u64,
    needed: BTreeMap<String, u64>,
    first_needed: BTreeMap<String, u64>,
}

fn one(bench: &Bench, options: &Options, seed: u64, totals: &Mutex<Totals>) -> Result<(), Box<dyn Error>> {
    let plan = generator::generate(seed, options.small);
    if options.show {
        println!("seed {seed}: {plan:#?}");
    }
    let name = format!("seed-{seed}");
    let trial = match bench.run(&plan, &name) {
        Ok(trial) => trial,
        Err(TrialError::Build(error)) => {
            if options.show {
                println!("seed {seed}: {error}");
            }
            totals.lock().expect("no panic holds it").unbuildable += 1;
            return Ok(());
        }
        Err(error) => return Err(format!("seed {seed}: {error}").into()),
    };
    {
        let mut totals = totals.lock().expect("no panic holds it");
        for rule in &trial.sorted.needed {
            *totals.needed.entry(rule.clone()).or_default() += 1;
            totals.first_needed.entry(rule.clone()).or_insert(seed);
        }
        match (trial.sorted.open.is_empty(), trial.sorted.needed.is_empty()) {
            (true, true) => totals.equal += 1,
            (true, false) => totals.explained += 1,
            (false, _) => totals.failing.push(seed),
        }
    }
    if trial.sorted.open.is_empty() {
        return keep(bench, options, &plan, &trial, totals);
    }
    report(bench, options, seed, plan, trial)
}

/// Stores a case if it is small and, where rules were asked for, needs one of them.
fn keep(
    bench: &Bench,
    options: &Options,
    plan: &Plan,
    trial: &Trial,
    totals: &Mutex<Totals>,
) -> Result<(), Box<dyn Error>> {
    let Some(folder) = &options.store else { return Ok(()) };
    let is_wanted = options.for_rules.iter().any(|rule| trial.sorted.needed.contains(rule));
    if !(is_wanted || options.for_rules.is_empty()) || is_enough(options, totals) {
        return Ok(());
    }
    let limit = if is_wanted { MAX_WANTED_BYTES } else { MAX_STORED_BYTES };
    let Ok(stored) = bench.run_for_storage(plan, &trial.case.name) else { return Ok(()) };
    if !stored.sorted.open.is_empty() || corpus::size_bytes(&stored.case, stored.fixture())? > limit {
        return Ok(());
    }
    corpus::store(&stored.case, stored.fixture(), folder)?;
    totals.lock().expect("no panic holds it").stored += 1;
    Ok(())
}

fn is_enough(options: &Options, totals: &Mutex<Totals>) -> bool {
    totals.lock().expect("no panic holds it").stored >= options.keep
}

fn report(bench: &Bench, options: &Options, seed: u64, plan: Plan, trial: Trial) -> Result<(), Box<dyn Error>> {
    let (plan, trial) = if options.shrink { shrinker::shrink(bench, plan, trial) } else { (plan, trial) };
    let path = corpus::store(&trial.case, trial.fixture(), &options.out)?;
    let findings: Vec<String> = trial.sorted.open.iter().map(ToString::to_string).collect();
    let images: Vec<String> = plan.images.iter().map(|image| format!("  {image:?}")).collect();
    let small = if options.small { " --small" } else { "" };
    println!(
        "seed {seed}: {} {}\n{}\n{}\n  qemu-img: {:?} {}\n  written to {}\n  reproduce: cargo run -p conformance --bin differential -- --seed {seed} --cases 1{small}\n",
        plan.op.word(),
        plan.argv.join(" "),
        images.join("\n"),
        findings.join("\n"),
        trial.case.outcomes[0].rc,
        trial.case.outcomes[0].stderr.trim_end(),
        path.display()
    );
    Ok(())
}

fn run() -> Result<bool, Box<dyn Error>> {
    let options = options()?;
    let qemu = QemuImg::installed().into_iter().next().ok_or("no qemu-img in INSTAR_QEMU_IMG or PATH")?;
    let bench = Bench {
        builder: Builder::new(qemu.binary()),
        qemu,
        product: Product::find()?,
        whitelist: Whitelist::load()?,
        rules: Rules::load()?,
    };
    let (next, totals) = (AtomicU64::new(0), Mutex::new(Totals::default()));
    let broken: Mutex<Option<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= options.cases
                        || is_enough(&options, &totals)
                        || broken.lock().expect("no panic holds it").is_some()
                    {
                        break;
                    }
                    if let Err(error) = one(&bench, &options, options.seed + index, &totals) {
                        *broken.lock().expect("no panic holds it") = Some(error.to_string());
                    }
                }
            });
        }
    });
    if let Some(error) = broken.into_inner()? {
        return Err(error.into());
    }
    let totals = totals.into_inner()?;
    println!(
        "{} cases from seed {}, qemu-img {}: {} equal, {} explained by rules, {} not buildable, {} failing {:?}",
        options.cases,
        options.seed,
        bench.qemu.version(),
        totals.equal,
        totals.explained,
        totals.unbuildable,
        totals.failing.len(),
        totals.failing
    );
    if options.store.is_some() {
        println!("{} stored", totals.stored);
    }
    for name in bench.rules.names() {
        let count = totals.needed.get(name).copied().unwrap_or(0);
        let first = totals.first_needed.get(name).map_or(String::new(), |seed| format!(", first by seed {seed}"));
        println!("  rule {name}: needed by {count}{first}");
    }
    Ok(totals.failing.is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
