//! What a command prints when it is done, and the one place that writes to the terminal.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;

use super::error::Failure;
use crate::text::Printable;

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

impl Form {
    /// Reads the value of `--output`.
    ///
    /// # Errors
    /// Any other value than the two.
    pub(super) fn parse(command: &'static str, value: Option<&OsStr>) -> Result<Self, Failure> {
        match value.map(OsStrExt::as_bytes) {
            None | Some(b"human") => Ok(Self::Human),
            Some(b"json") => Ok(Self::Json),
            Some(other) => {
                let text = format!("--output expects 'human' or 'json', not '{}'", Printable(other));
                Err(Failure::usage(command, text))
            }
        }
    }
}

/// Writes a result. A reader that has gone away is no failure.
///
/// # Errors
/// Any other error of writing.
pub(super) fn print(result: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(result).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Writes lines that are no result: errors and warnings. There is nobody to tell if that fails.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
