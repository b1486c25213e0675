//! The stored corpus of random cases, replayed against the product and compared with what qemu-img made of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::differential::replay::run()
}
