//! Everything that ends a command without success: a stable kind, and the one place where it becomes words and a status.

use std::fmt;
use std::io;

use crate::cli::RebaseFailure;
use crate::cli::info::BadReport;
use crate::code::Code;
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
    /// A finding in whole words, which do not begin with the file that it is about.
    Whole {
        /// What kind of finding it is.
        code: Code,
        /// The file.
        file: Vec<u8>,
        /// The finding.
        text: String,
    },
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
    Job {
        /// What kind of failure it is.
        code: Code,
        /// The image that was read or written.
        image: Vec<u8>,
        /// The system's words, or the sandbox's.
        text: Vec<u8>,
    },
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
        /// What kind of finding it is.
        code: Code,
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
    /// The real qemu-img cannot be had; why.
    NoQemuImg(String),
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

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Usage { .. } | Self::Option(_) => Code::Usage,
            Self::Whole { code, .. } | Self::Job { code, .. } | Self::Image { code, .. } => *code,
            Self::Open(error) => error.cause.code(),
            Self::File(cause) => cause.code(),
            Self::NoBacking => Code::NoBacking,
            Self::NotInChain { .. } => Code::NotInChain,
            Self::Rebase(failure) => failure.code(),
            Self::Siblings { .. } => Code::OtherOverlays,
            Self::Sandbox { error, .. } => error.code(),
            Self::Report { .. } => Code::GuestFault,
            Self::Unfit(_) => Code::Unfit,
            Self::Output(_) => Code::Output,
            Self::NoQemuImg(_) => Code::NoQemuImg,
        }
    }

    /// The file that it is about, where the failure itself knows.
    #[must_use]
    pub fn file(&self) -> Option<&[u8]> {
        match self {
            Self::Whole { file: name, .. }
            | Self::Job { image: name, .. }
            | Self::NotInChain { image: name, .. }
            | Self::Siblings { base: name, .. }
            | Self::Image { image: name, .. }
            | Self::Sandbox { image: name, .. }
            | Self::Report { image: name, .. } => Some(name),
            Self::Open(error) => error.cause.file().or(Some(&error.image)),
            Self::File(cause) => cause.file(),
            Self::Rebase(failure) => failure.file(),
            Self::Usage { .. }
            | Self::Option(_)
            | Self::NoBacking
            | Self::Unfit(_)
            | Self::Output(_)
            | Self::NoQemuImg(_) => None,
        }
    }

    /// What to do, where more can be said than the message does.
    pub(super) fn hint(&self, program: &str) -> Option<String> {
        match self {
            Self::Usage { command, .. } => Some(help_hint(program, *command)),
            failure => failure.code().hint().map(str::to_owned),
        }
    }

    /// Message and hint as they follow the program's name in words.
    pub(super) fn words(&self, program: &str) -> String {
        match self {
            Self::Usage { command, .. } => format!("{}\n{}", Message(self), help_hint(program, *command)),
            failure => Message(failure).to_string(),
        }
    }

    /// The program's name as it stands in front of the message, with the colon behind it.
    pub(super) fn prefix(&self, program: &str) -> String {
        match self {
            Self::Usage { command: Some(command), by_option_parser: true, .. } => format!("{program} {command}:"),
            _ => format!("{program}:"),
        }
    }
}

fn help_hint(program: &str, command: Option<&str>) -> String {
    let command = command.map(|command| format!(" {command}")).unwrap_or_default();
    format!("Try '{program}{command} --help' for more information")
}

/// A failure's message, without the program's name in front and without a hint behind.
pub(super) struct Message<'a>(pub(super) &'a Failure);

impl fmt::Display for Failure {
    /// The whole message, with the program's name in front and a hint behind where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PROGRAM: &str = "instar";
        write!(f, "{} {}", self.prefix(PROGRAM), self.words(PROGRAM))
    }
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Failure::Usage { text, .. } | Failure::Option(text) | Failure::Whole { text, .. } => f.write_str(text),
            Failure::Open(error) => error.fmt(f),
            Failure::File(cause) => cause.fmt(f),
            Failure::NoBacking => f.write_str("Image does not have a backing file"),
            Failure::NotInChain { base, image } => {
                write!(f, "Did not find '{}' in the backing chain of '{}'", Printable(base), Printable(image))
            }
            Failure::Rebase(failure) => failure.fmt(f),
            Failure::Job { text, .. } => write!(f, "Block job failed: {}", Printable(text)),
            Failure::Siblings { base, overlays } => {
                write!(f, "'{}': Other overlays read from it, and what they show would change:", Printable(base))?;
                overlays.iter().try_for_each(|overlay| write!(f, "\n  {}", Printable(overlay)))?;
                f.write_str("\nNothing was changed; --force commits all the same")
            }
            Failure::Image { image, text, .. } => write!(f, "'{}': {}", Printable(image), Printable(text)),
            Failure::Sandbox { error: error @ (VmError::Unavailable(_) | VmError::Jail(_)), .. } => error.fmt(f),
            Failure::Sandbox { image, error } => {
                write!(f, "'{}': {}", Printable(image), Printable(error.to_string().as_bytes()))?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Failure::Report { image, error } => write!(f, "'{}': {error}", Printable(image)),
            Failure::Unfit(missing) => write!(f, "This machine lacks what nothing works without: {missing}"),
            Failure::NoQemuImg(text) => f.write_str(text),
            Failure::Output(error) => write!(f, "Could not write the result: {}", crate::files::system_text(error)),
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
