//! What a command prints when it is done, and the one place that writes to the terminal.
//!
//! What a command writes on one thread can be kept instead of shown: that is how it runs inside of another program.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, Write};
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

/// What a command has written.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// On standard output.
    pub(super) out: Vec<u8>,
    /// On standard error.
    pub(super) err: Vec<u8>,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Keeps what `act` writes on this thread.
pub(super) fn keep<T>(act: impl FnOnce() -> T) -> (T, Kept) {
    let before = KEPT.replace(Some(Kept::default()));
    let result = act();
    (result, KEPT.replace(before).unwrap_or_default())
}

/// A standard channel, or what is kept in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Channel {
    /// Whether somebody is looking.
    pub(super) fn is_terminal(self) -> bool {
        match self {
            _ if KEPT.with_borrow(Option::is_some) => false,
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        }
    }

    fn with<T>(self, write: impl FnOnce(&mut dyn Write) -> T) -> T {
        KEPT.with_borrow_mut(|kept| match (kept, self) {
            (Some(kept), Self::Out) => write(&mut kept.out),
            (Some(kept), Self::Err) => write(&mut kept.err),
            (None, Self::Out) => write(&mut io::stdout()),
            (None, Self::Err) => write(&mut io::stderr()),
        })
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(|out| out.flush())
    }
}

/// Writes a result. A reader that has gone away is no failure.
///
/// # Errors
/// Any other error of writing.
pub(super) fn print(result: &[u8]) -> Result<(), Failure> {
    let mut out = Channel::Out;
    match out.write_all(result).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Writes lines that are no result: errors and warnings. There is nobody to tell if that fails.
pub(super) fn complain(text: &str) {
    let _ = Channel::Err.write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_not_shown_and_belongs_to_one_thread() {
        let ((), kept) = keep(|| {
            print(b"result").expect("kept");
            std::thread::spawn(|| assert!(KEPT.with_borrow(Option::is_none))).join().expect("ends");
            complain("warning");
            assert!(!Channel::Out.is_terminal());
        });
        assert_eq!((kept.out.as_slice(), kept.err.as_slice()), (&b"result"[..], &b"warning\n"[..]));
        assert!(KEPT.with_borrow(Option::is_none));
    }
}
