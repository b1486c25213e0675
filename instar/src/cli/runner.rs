//! `--sandbox` and INSTAR_SANDBOX: what a guest runs on. Without either it is KVM, whether that works here or not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::error::Failure;
use crate::jail::Runner;
use crate::text::Printable;

/// Asks for the kind of sandbox where the command line does not.
pub(super) const VARIABLE: &str = "INSTAR_SANDBOX";

/// What a guest shall run on.
///
/// # Errors
/// If option or variable is no kind of sandbox.
pub(super) fn choose(option: Option<&OsStr>) -> Result<Runner, Failure> {
    if let Some(word) = option {
        return named(word).ok_or_else(|| unknown("--sandbox", word));
    }
    match std::env::var_os(VARIABLE) {
        Some(word) if !word.is_empty() => named(&word).ok_or_else(|| unknown(VARIABLE, &word)),
        _ => Ok(Runner::default()),
    }
}

fn named(word: &OsStr) -> Option<Runner> {
    match word.as_bytes() {
        b"kvm" => Some(Runner::Kvm),
        b"process" => Some(Runner::Process),
        _ => None,
    }
}

fn unknown(what: &str, word: &OsStr) -> Failure {
    Failure::Option(format!("{what} expects 'kvm' or 'process', not '{}'", Printable(word.as_bytes())))
}
