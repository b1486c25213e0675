//! Runs every operation on the hostile corpus: `hostile [--count N] [--from N] [--program PATH]`.
//!
//! Without `--program` planner and executor run in this process; with it, the built program runs on files in a private folder,
//! and its exit status, time, memory and what it left of the other files are judged.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use instar_fuzz::generators::{hostile, seeds};
use instar_fuzz::oracles;

/// Time that one image may take.
const LIMIT: Duration = Duration::from_secs(10);
const WORKERS: u64 = 2;
/// Is set in the process that measures the program.
const CHILD: &str = "INSTAR_HOSTILE_CHILD";

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = BTreeMap::from([("--count", 100_000), ("--from", 0)]);
    let mut program = None;
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match numbers.get_mut(name.as_str()) {
            Some(number) => *number = value.parse()?,
            // It is started in other folders.
            None if name == "--program" => program = Some(fs::canonicalize(value)?),
            None => return Err(format!("unknown option {name}").into()),
        }
    }
    if program.is_some() && env::var_os(CHILD).is_none() {
        // What cargo has compiled before it became this process would count as children's memory; a process of its own has none yet.
        let status = Command::new(env::current_exe()?).args(env::args().skip(1)).env(CHILD, "1").status()?;
        return if status.success() { Ok(()) } else { Err(format!("ended with {status}").into()) };
    }
    let (count, from) = (numbers["--count"], numbers["--from"]);
    let seeds = seeds::all()?;
    let changes: Vec<_> = seeds.iter().map(|seed| hostile::changes(&seed.bytes)).collect();
    let (next, slowest) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    let which = usize::try_from(at % seeds.len() as u64).unwrap_or(0);
                    let number = from + at / seeds.len() as u64;
                    let (seed, image) = (&seeds[which], hostile::image(&seeds[which], &changes[which], number));
                    let name = format!("{} {number}", seed.name);
                    let start = Instant::now();
                    match &program {
                        None => oracles::image::survives_everything(&image, seed.format),
                        Some(program) => oracles::program::survives(program, &name, seed.format, &image),
                    }
                    let took = start.elapsed();
                    slowest.fetch_max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                    assert!(took < LIMIT, "{name} took {took:?}");
                }
            });
        }
    });
    let singles: usize = changes.iter().map(Vec::len).sum();
    println!(
        "{count} images ({} seeds, {singles} single changes): all operations ended in a report; the slowest image took {} ms",
        seeds.len(),
        slowest.into_inner()
    );
    Ok(())
}
