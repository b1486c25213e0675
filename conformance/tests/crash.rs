//! Every case, crashed: a brief run of the crash harness. `cargo run --release -p conformance --bin crash` looks longer.

use conformance::crash::{Effort, try_all};

#[test]
fn no_crash_loses_or_breaks_anything() {
    let tally = try_all("", &Effort::BRIEF, &|_, _| ()).expect("recordings and fixtures");
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.states() >= 50_000, "too little was tried: {tally}");
}
