//! What a command prints when it is done, and the one place that writes to the terminal.
//!
//! What a command writes on one thread can be kept instead of shown: that is how it runs inside of another program.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

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
        Self::of_option(command, "--output", value)
    }

    /// Reads the value of an option that names a form.
    ///
    /// # Errors
    /// Any other value than the two.
    pub(super) fn of_option(command: &'static str, option: &str, value: Option<&OsStr>) -> Result<Self, Failure> {
        match value.map(OsStrExt::as_bytes) {
            None | Some(b"human") => Ok(Self::Human),
            Some(b"json") => Ok(Self::Json),
            Some(other) => {
                let text = format!("{option} expects 'human' or 'json', not '{}'", Printable(other));
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

/// Whether people look at standard error and like colours.
static HAS_COLOURS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static PROGRAM: Cell<&'static str> = const { Cell::new("instar") };
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Keeps what `act` writes on this thread.
pub(super) fn keep<T>(act: impl FnOnce() -> T) -> (T, Kept) {
    let before = KEPT.replace(Some(Kept::default()));
    let program = program();
    let result = act();
    speak_as(program);
    (result, KEPT.replace(before).unwrap_or_default())
}

/// Whether what this thread writes is kept.
pub(super) fn is_kept() -> bool {
    KEPT.with_borrow(Option::is_some)
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
            _ if is_kept() => false,
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

/// The name under which this thread speaks.
pub(super) fn program() -> &'static str {
    PROGRAM.get()
}

/// Speaks under another name from now on.
pub(super) fn speak_as(program: &'static str) {
    PROGRAM.set(program);
}

/// Finds out whether colours are wanted: on a terminal that has them, unless the environment says no. A jailed process has
/// no environment any more, so this comes first.
pub(super) fn choose_colours() {
    let says = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let is_dumb = says("TERM").is_none_or(|terminal| terminal == "dumb");
    HAS_COLOURS.store(Channel::Err.is_terminal() && says("NO_COLOR").is_none() && !is_dumb, Ordering::Relaxed);
}

/// Bold red, bold yellow, and the end of either.
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const PLAIN: &str = "\x1b[0m";

/// Writes an error, with the words in front of it in colour where that is wanted.
pub(super) fn complain_in_front(prefix: &str, text: &str) {
    complain_in(RED, prefix, text);
}

/// Writes a warning of this program's own.
pub(super) fn warn(text: &str) {
    complain_in(YELLOW, &format!("{}: warning:", program()), text);
}

fn complain_in(colour: &str, prefix: &str, text: &str) {
    if HAS_COLOURS.load(Ordering::Relaxed) && !is_kept() {
        complain(&format!("{colour}{prefix}{PLAIN} {text}"));
    } else {
        complain(&format!("{prefix} {text}"));
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
