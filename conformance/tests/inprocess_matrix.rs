//! Every recorded case, judged for every recorded version of qemu-img, with the product in this process and no virtual machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::matrix::in_process()
}
