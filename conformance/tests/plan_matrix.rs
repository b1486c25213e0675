//! Every recorded case, planned and then done: a plan changes no byte, ends as the command ends, and says to the byte how
//! long the command leaves each file.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::plans::matrix()
}
