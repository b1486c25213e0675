//! What can end a run other than a report.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::code::Code;

/// Why there is no report.
#[derive(Debug)]
pub enum VmError {
    /// The machine offers no usable KVM; the text is a whole sentence with the device, the cause and the remedy.
    Unavailable(String),
    /// A layer of the jail is missing and was demanded; the text is a whole sentence.
    Jail(String),
    /// The host could not build the sandbox.
    Setup {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The guest program's file is not what this host can load.
    Program(&'static str),
    /// The run was asked for with impossible values.
    Config(String),
    /// The guest touched what it may not touch, or did what it may not do. The processor says no more than this.
    Fault {
        /// Address of the instruction, if the processor tells.
        instruction: Option<u64>,
        /// Address of the last failed memory access, if the processor tells.
        address: Option<u64>,
    },
    /// The guest gave up; its last words.
    Panic(String),
    /// The guest neither ended nor made a request for so long.
    Stuck(Duration),
    /// The guest spoke to a device in a way that no honest driver does.
    Protocol(String),
    /// The guest's report makes no sense.
    Report(String),
    /// KVM ended the run in a way that has no other name here.
    Exit(String),
    /// What a worker process says of its run; whole sentences, and hostile.
    Told {
        /// What kind of failure it says it is.
        code: Code,
        /// What it says.
        sentence: String,
    },
}

impl VmError {
    /// Shorthand for a setup step's error.
    pub(crate) fn setup(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Setup { what, source: source.into() }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::NoKvm,
            Self::Jail(_) => Code::Jail,
            Self::Setup { .. } | Self::Program(_) | Self::Config(_) => Code::Sandbox,
            Self::Stuck(_) => Code::GuestStuck,
            Self::Fault { .. } | Self::Panic(_) | Self::Protocol(_) | Self::Report(_) | Self::Exit(_) => {
                Code::GuestFault
            }
            Self::Told { code, .. } => *code,
        }
    }
}

/// The system's words for an error, without Rust's "(os error N)".
pub(super) fn words(cause: &io::Error) -> String {
    let text = cause.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(sentence) | Self::Jail(sentence) | Self::Told { sentence, .. } => f.write_str(sentence),
            Self::Setup { what, .. } => write!(f, "could not build the sandbox: {what}"),
            Self::Program(finding) => write!(f, "could not build the sandbox: the guest program {finding}"),
            Self::Config(finding) => write!(f, "could not build the sandbox: {finding}"),
            Self::Fault { instruction, address } => {
                f.write_str("the sandbox stopped: the guest program did what it may not do")?;
                match (instruction, address) {
                    (Some(instruction), Some(address)) => {
                        write!(f, " (instruction at {instruction:#x}, last failed memory access at {address:#x})")
                    }
                    (Some(instruction), None) => write!(f, " (instruction at {instruction:#x})"),
                    _ => Ok(()),
                }
            }
            Self::Panic(text) => write!(f, "the sandbox stopped: {}", text.escape_debug()),
            Self::Stuck(limit) => {
                write!(f, "the sandbox stopped: the guest program neither ended nor made a request for {limit:?}")
            }
            Self::Protocol(finding) => write!(f, "the sandbox stopped: {finding}"),
            Self::Report(finding) => {
                write!(f, "the sandbox stopped: the guest program's report is not valid: {finding}")
            }
            Self::Exit(finding) => write!(f, "the sandbox stopped: {finding}"),
        }
    }
}

impl std::error::Error for VmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Setup { source, .. } => Some(source),
            _ => None,
        }
    }
}
