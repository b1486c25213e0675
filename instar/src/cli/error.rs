//! Everything that ends a command without success: a stable kind, and the one place where it becomes words and a status.

use std::fmt;
use std::io;

use crate::cli::RebaseFailure;
use crate::cli::info::BadReport;
use crate::files::chain::ChainError;
use crate::files::{Cause, OpenError};
use crate::text::Printable;
use crate::vm::VmError;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The command line is not one of this program's.
    Usage {
        /// The command, if it was understood so far.
        command: Option<&'static str>,
        /// The option parser says it, and names itself.
        by_option_parser: bool,
        /// What is wrong.
        text: String,
    },
    /// An option's value makes no sense, or two options contradict each other.
    Option(String),
    /// An image, or something below it, cannot be opened.
    Open(OpenError),
    /// A file or directory that is no part of opening the image: an allowed directory, the base when it is to be written.
    File(Cause),
    /// There is nothing to commit into.
    NoBacking,
    /// The name given as base is not in the chain.
    NotInChain {
        /// The name.
        base: Vec<u8>,
        /// The overlay.
        image: Vec<u8>,
    },
    /// Copying failed.
    Job(Vec<u8>),
    /// The overlay does not get the new backing file.
    Rebase(RebaseFailure),
    /// Other images are based on what would change.
    Siblings {
        /// The base.
        base: Vec<u8>,
        /// The other images.
        overlays: Vec<Vec<u8>>,
    },
    /// A finding about one image, in whole words.
    Image {
        /// The image.
        image: Vec<u8>,
        /// The finding.
        text: Vec<u8>,
    },
    /// The sandbox ended without a report, or cannot be had at all.
    Sandbox {
        /// The image that it was working on.
        image: Vec<u8>,
        /// What happened.
        error: VmError,
    },
    /// The report of the sandbox makes no sense.
    Report {
        /// The image that it is about.
        image: Vec<u8>,
        /// What is wrong with it.
        error: BadReport,
    },
    /// The machine has not what is needed; the names of the checks that found it out.
    Unfit(String),
    /// Writing the result failed.
    Output(io::Error),
}

impl Failure {
    /// A usage error that the command itself found.
    pub(super) fn usage(command: &'static str, text: impl Into<String>) -> Self {
        Self::Usage { command: Some(command), by_option_parser: false, text: text.into() }
    }

    /// The exit status: qemu-img knows only one for all of these.
    pub(super) fn exit_status(&self) -> u8 {
        1
    }
}

impl fmt::Display for Failure {
    /// The whole message, with the program's name in front and a hint behind where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("instar")?;
        if let Self::Usage { command: Some(command), by_option_parser: true, .. } = self {
            write!(f, " {command}")?;
        }
        f.write_str(": ")?;
        match self {
            Self::Usage { command, text, .. } => {
                let command = command.map(|command| format!(" {command}")).unwrap_or_default();
                write!(f, "{text}\nTry 'instar{command} --help' for more information")
            }
            Self::Option(text) => f.write_str(text),
            Self::Open(error) => error.fmt(f),
            Self::File(cause) => cause.fmt(f),
            Self::NoBacking => f.write_str("Image does not have a backing file"),
            Self::NotInChain { base, image } => {
                write!(f, "Did not find '{}' in the backing chain of '{}'", Printable(base), Printable(image))
            }
            Self::Rebase(failure) => failure.fmt(f),
            Self::Job(text) => write!(f, "Block job failed: {}", Printable(text)),
            Self::Siblings { base, overlays } => {
                write!(f, "'{}': Other overlays read from it, and what they show would change:", Printable(base))?;
                overlays.iter().try_for_each(|overlay| write!(f, "\n  {}", Printable(overlay)))?;
                f.write_str("\nNothing was changed; --force commits all the same")
            }
            Self::Image { image, text } => write!(f, "'{}': {}", Printable(image), Printable(text)),
            Self::Sandbox { error: error @ VmError::Unavailable(_), .. } => error.fmt(f),
            Self::Sandbox { image, error } => {
                write!(f, "'{}': {}", Printable(image), Printable(error.to_string().as_bytes()))?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Self::Report { image, error } => write!(f, "'{}': {error}", Printable(image)),
            Self::Unfit(missing) => write!(f, "This machine lacks what nothing works without: {missing}"),
            Self::Output(error) => write!(f, "Could not write the result: {}", crate::files::system_text(error)),
        }
    }
}

impl From<ChainError<VmError>> for Failure {
    fn from(error: ChainError<VmError>) -> Self {
        match error {
            ChainError::Open(error) => Self::Open(error),
            ChainError::Sandbox { image, error } => Self::Sandbox { image, error },
        }
    }
}
