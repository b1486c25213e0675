//! Random cases against an installed qemu-img: `differential --seed N --cases M`.

use conformance::differential::builder::Builder;
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

const USAGE: &str = "usage: differential --seed N --cases M [--threads N] [--small] [--no-shrink] [--show] [--out FOLDER] [--store FOLDER]
  --seed        the first seed; case i has seed N + i
  --cases       how many
  --threads     how many at a time (default: 2)
  --small       short disks and few writes, as in the stored corpus
  --no-shrink   failing cases are written out as they were drawn
  --show        print the plan of every case
  --out         where failing cases go (default: differential-failures in the target directory)
  --store       write every case without unexplained difference there, in the layout of instar-testdata/corpus";

struct Options {
    seed: u64,
    cases: u64,
    threads: usize,
    small: bool,
    shrink: bool,
    show: bool,
    out: PathBuf,
    store: Option<PathBuf>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let out = paths::results("differential-failures");
    let mut options =
        Options { seed: 0, cases: 0, threads: 2, small: false, shrink: true, show: false, out, store: None };
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
        if let Some(folder) = &options.store {
            corpus::store(&trial.case, trial.fixture(), folder)?;
        }
        return Ok(());
    }
    report(bench, options, seed, plan, trial)
}

fn report(
    bench: &Bench,
    options: &Options,
    seed: u64,
    plan: conformance::differential::plan::Plan,
    trial: Trial,
) -> Result<(), Box<dyn Error>> {
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
                    if index >= options.cases || broken.lock().expect("no panic holds it").is_some() {
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
