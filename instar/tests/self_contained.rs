//! The program needs no library of the system, where it was linked on a machine that has the C library's static form.

use std::env;
use std::fs;

#[path = "../build/self_contained.rs"]
#[expect(dead_code, reason = "cargo is told nothing here")]
mod self_contained;

/// Type of the program header that names a loader of shared libraries.
const INTERPRETER: u32 = 3;

/// Types of an ELF file's program headers.
fn program_headers(file: &[u8]) -> Vec<u32> {
    let number = |at: usize, length: usize| {
        file[at..at + length].iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (start, length, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|index| u32::try_from(number(start + index * length, 4)).expect("four bytes")).collect()
}

#[test]
fn the_program_asks_for_no_loader() {
    let program = fs::read(env!("CARGO_BIN_EXE_instar")).expect("the program");
    let own = fs::read(env::current_exe().expect("a path")).expect("this test");
    // Tests are linked as rustc does it by itself.
    assert_eq!(program_headers(&own).contains(&INTERPRETER), !cfg!(target_feature = "crt-static"));
    if option_env!("INSTAR_LINK") == Some("dynamic") || self_contained::archives("cc").is_none() {
        eprintln!(
            "the_program_asks_for_no_loader: skipped, there is no static C library, or INSTAR_LINK=dynamic was set"
        );
        return;
    }
    assert!(!program_headers(&program).contains(&INTERPRETER));
}
