//! The readers of the oracles end with an answer or an error on any bytes: they never panic, never run away.

use conformance::fixture::{self, Workspace};
use conformance::judge;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const FIXTURES: [&str; 11] = [
    "cluster-4k",
    "extl2-both",
    "compressed-overlay-zstd",
    "snapshot-both",
    "bitmap-overlay",
    "qcow2-on-qed",
    "qcow2-on-qcow",
    "qcow2-on-vdi",
    "qcow2-on-vhdx",
    "qcow2-on-parallels",
    "vmdk",
];

/// Damaged copies of every file.
const ROUNDS: u64 = 24;

/// xorshift: the seed is in every failure message.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn damaged_images_give_an_answer_or_an_error() {
    for name in FIXTURES {
        let workspace = Workspace::unpack(name).expect("fixture");
        for path in fixture::list_files(workspace.path()).expect("files") {
            let original = fs::read(&path).expect("file");
            let file_name = path.strip_prefix(workspace.path()).expect("below").to_string_lossy().into_owned();
            for seed in 1..=ROUNDS {
                let mut state = seed;
                let file = OpenOptions::new().write(true).open(&path).expect("file");
                for _ in 0..4 {
                    // Half of the damage goes to the first bytes, where the header stands; the rest anywhere in the first 320 KiB.
                    let room =
                        if next(&mut state).is_multiple_of(2) { 128 } else { original.len().min(320 << 10) as u64 };
                    let bytes = match next(&mut state) % 3 {
                        0 => [0xff; 8],
                        1 => next(&mut state).to_be_bytes(),
                        _ => (1u64 << (next(&mut state) % 64)).to_le_bytes(),
                    };
                    let length = 1 + usize::try_from(next(&mut state) % 8).expect("small");
                    file.write_all_at(&bytes[..length], next(&mut state) % room).expect("write");
                }
                let start = Instant::now();
                let outcome = std::panic::catch_unwind(|| judge::read_file(workspace.path(), &file_name));
                assert!(outcome.is_ok(), "{name}/{file_name} panics with seed {seed}");
                assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "{name}/{file_name} takes too long with seed {seed}"
                );
                fs::write(&path, &original).expect("restore");
            }
        }
    }
}
