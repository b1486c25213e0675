//! Why an operation gave no report.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use crate::code::Code;
use crate::text::Printable;

/// Why an operation gave no report. Shown on one line, fit for a terminal.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operation failed, and the program said why.
    Failed(Box<Failure>),
    /// There is no such program.
    ProgramNotFound {
        /// The program, as it was searched for.
        program: PathBuf,
    },
    /// The system did not let the program be started, or be listened to. No data is lost, and carrying the operation out again
    /// completes what may have begun.
    System {
        /// What was not to be had.
        doing: &'static str,
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program was ended by a signal. No data is lost, and carrying the operation out again completes it.
    Signal {
        /// Its number.
        signal: i32,
        /// What the program had said until then, line by line.
        messages: Vec<String>,
    },
    /// What the program said is no answer that this version of the library understands.
    NotUnderstood {
        /// Whether the program ended with success: then the operation was carried out.
        succeeded: bool,
        /// What it said.
        said: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A failure as the program tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The name of its code. [`Failure::code`] is the same as a value.
    #[serde(rename = "code")]
    pub code_name: String,
    /// What happened, in words; there may be several lines. Not made for matching: its words may change.
    pub message: String,
    /// The file that it is about: the one at fault where that is known, otherwise the image of the operation. It may come from
    /// an image, and is not made fit for a terminal.
    pub file: Option<String>,
    /// What to do, where more can be said than the message does.
    pub hint: Option<String>,
    /// Warnings, and whatever else the program had said before, line by line.
    #[serde(skip)]
    pub messages: Vec<String>,
}

impl Failure {
    /// What kind of failure it is; `None` if that is known only to a newer version than this library.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.code_name.parse().ok()
    }

    /// What the program would have said of a command line that makes no sense.
    pub(super) fn of_usage(message: &str) -> Self {
        let code_name = Code::Usage.name().to_owned();
        Self { code_name, message: message.to_owned(), file: None, hint: None, messages: Vec::new() }
    }

    /// Reads a line of JSON.
    pub(super) fn read(line: &str) -> serde_json::Result<Self> {
        serde_json::from_str(line)
    }
}

impl Error {
    /// What the program said, if it said why.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// What kind of failure it is, if the program said it and this library knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.failure()?.code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::ProgramNotFound { program } => {
                let program = Printable(program.as_os_str().as_encoded_bytes());
                write!(f, "The program '{program}' was not found: install instar, or name it in INSTAR")
            }
            Self::System { doing, program, .. } => {
                let program = Printable(program.as_os_str().as_encoded_bytes());
                write!(f, "{doing} the program '{program}' failed")
            }
            Self::Signal { signal, .. } => write!(f, "instar was ended by signal {signal}; no data is lost"),
            Self::NotUnderstood { succeeded, said, reason } => {
                let how = if *succeeded { "did what it was asked for" } else { "failed" };
                let (said, reason) = (Printable(said.trim().as_bytes()), Printable(reason.as_bytes()));
                write!(f, "instar {how}, but its answer was not understood ({reason}): {said}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    /// The message, its lines joined.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.message.lines().enumerate() {
            let between = if index > 0 { " | " } else { "" };
            write!(f, "{between}{}", Printable(line.trim().as_bytes()))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_on_one_line_and_keeps_its_parts() {
        let line =
            r#"{"code":"image-in-use","message":"no lock\n  on [a\u001b]?","file":"a\u001b","hint":"wait","new":1}"#;
        let failure = Failure::read(line).expect("a failure");
        assert_eq!(failure.to_string(), "no lock | on [a\\x1b]?");
        assert_eq!((failure.file.as_deref(), failure.hint.as_deref()), (Some("a\u{1b}"), Some("wait")));
        let error = Error::Failed(Box::new(failure));
        assert_eq!(error.code(), Some(Code::ImageInUse));
        let newer = Failure::read(r#"{"code":"not-yet","message":"x"}"#).expect("a failure");
        assert_eq!((newer.code(), newer.code_name.as_str()), (None, "not-yet"));
    }

    #[test]
    fn every_error_is_one_printable_line() {
        let errors = [
            Error::ProgramNotFound { program: "in\nstar".into() },
            Error::System { doing: "Starting", program: "in\nstar".into(), source: io::Error::other("x") },
            Error::Signal { signal: 9, messages: vec!["a\nb".to_owned()] },
            Error::NotUnderstood { succeeded: true, said: "a\nb\x1b".to_owned(), reason: "c\nd".to_owned() },
        ];
        for error in errors {
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
