//! Runs every target on its regressions and on bytes from a fixed generator, so that targets and oracles are checked on
//! every test run, without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use instar_fuzz::generators::{hostile, seeds};
use instar_fuzz::oracles::image;
use instar_fuzz::targets;

/// How many generated inputs each target gets.
const INPUTS: u64 = 64;
/// How many images of the hostile corpus are made from each seed.
const HOSTILE: u64 = 120;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the harness lies in fuzz").to_owned()
}

/// Bytes that look random and are the same everywhere.
fn bytes(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn no_target_fails_on_generated_bytes() {
    for (name, target) in targets::ALL {
        for seed in 1..=INPUTS {
            let length = usize::try_from(seed * seed).expect("short");
            eprintln!("{name}: seed {seed}");
            target(&bytes(seed, length));
        }
    }
}

#[test]
fn no_target_fails_on_its_seeds() {
    for seed in seeds::all().expect("the seeds are there") {
        eprintln!("{}", seed.name);
        targets::named(seed.target)(&seed.bytes);
    }
}

#[test]
fn a_sample_of_the_hostile_corpus_ends_in_reports() {
    for seed in seeds::all().expect("the seeds are there") {
        let changes = hostile::changes(&seed.bytes);
        // As many single changes as pairs.
        let numbers = (0..HOSTILE / 2).chain(changes.len() as u64..changes.len() as u64 + HOSTILE / 2);
        for number in numbers {
            eprintln!("{}: image {number}", seed.name);
            image::survives_everything(&hostile::image(&seed, &changes, number), seed.format);
        }
    }
}

#[test]
fn no_regression_is_back() {
    for (name, target) in targets::ALL {
        let Ok(found) = fs::read_dir(fuzz_folder().join("regressions").join(name)) else { continue };
        for entry in found {
            let path = entry.expect("a file").path();
            eprintln!("{}", path.display());
            target(&fs::read(path).expect("readable"));
        }
    }
}

#[test]
fn every_target_has_its_thin_file_and_no_other_is_there() {
    let mut files: Vec<String> = fs::read_dir(fuzz_folder().join("fuzz_targets"))
        .expect("the folder of targets")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
        .collect();
    files.sort();
    assert_eq!(files, targets::ALL.map(|(name, _)| name));
}
