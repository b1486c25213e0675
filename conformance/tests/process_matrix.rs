//! Every recorded case, judged for every recorded version of qemu-img, with the built program in the sandbox that needs no KVM.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::matrix::process_sandbox()
}
