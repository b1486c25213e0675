//! Every recorded `commit` case, judged for every recorded version of qemu-img.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::matrix::product(conformance::case::Operation::Commit)
}
