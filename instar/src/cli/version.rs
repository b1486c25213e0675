//! `instar --version --verbose`: the version, and what a guest is held by on this machine.

use std::error::Error;
use std::ffi::OsStr;

use clap::error::ErrorKind;

use super::error::Failure;
use super::output::print;
use crate::jail::{Jail, Purpose};
use crate::vm::{Hypervisor, VmError, probe_process};

/// Whether the parser's result is a wish for the version, and the command line asks for all of it.
pub(super) fn is_wanted_in_full(error: &clap::Error, arguments: &[impl AsRef<OsStr>]) -> bool {
    let verbose = |word: &OsStr| word == "--verbose" || word == "-v" || word == "-vV" || word == "-Vv";
    error.kind() == ErrorKind::DisplayVersion && arguments.iter().any(|word| verbose(word.as_ref()))
}

/// Prints it. To say what holds, the jail is closed around this process; it has nothing more to do.
///
/// # Errors
/// If the result cannot be written.
pub(super) fn print_in_full(version: &clap::Error) -> Result<(), Failure> {
    let kvm = Hypervisor::open().map_or_else(|error| format!("unusable: {error}"), |_| "usable".to_owned());
    let process = match probe_process() {
        Ok(layers) => format!("usable ({})", layers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        Err(error) => format!("unusable: {}", with_source(&error)),
    };
    // Nothing is missing where nothing is demanded.
    let jail = Jail { purpose: Purpose::Writing, ..Jail::default() };
    let layers = jail.close().map(|layers| layers.all().map(|layer| format!("{layer}\n")).concat());
    print(format!("{version}KVM: {kvm}\nprocess: {process}\n{}", layers.unwrap_or_default()).as_bytes())
}

fn with_source(error: &VmError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
