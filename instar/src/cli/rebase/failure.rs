//! Why an overlay does not get its new backing file, in the words that users know.

use std::fmt;

use crate::code::Code;
use crate::files::Cause;
use crate::text::Printable;

/// What keeps a rebase from being done, besides what concerns the overlay alone.
#[derive(Debug)]
pub enum RebaseFailure {
    /// The new backing file, or something below it, cannot be opened.
    NewBacking {
        /// The new backing file as typed.
        name: Vec<u8>,
        /// How many backing links below it the failure lies.
        backing_depth: usize,
        /// What went wrong there.
        cause: Cause,
    },
    /// The overlay's header cannot name the new backing file.
    Header {
        /// The new backing file as typed; `None` where nothing was.
        name: Option<Vec<u8>>,
        /// The finding.
        text: Vec<u8>,
    },
    /// The overlay's format has no compressed clusters.
    NoCompression,
    /// Writing to the overlay failed.
    Write {
        /// What kind of failure it is.
        code: Code,
        /// The system's words.
        text: Vec<u8>,
    },
    /// The old backing file, or something below it, cannot be read.
    ReadOld,
    /// The new backing file, or something below it, cannot be read.
    ReadNew,
}

impl RebaseFailure {
    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NewBacking { cause, .. } => cause.code(),
            Self::Header { .. } => Code::BackingNotRecorded,
            Self::NoCompression => Code::UnsupportedFormat,
            Self::Write { code, .. } => *code,
            Self::ReadOld | Self::ReadNew => Code::Io,
        }
    }

    /// The file that it is about, if it is not the overlay.
    #[must_use]
    pub fn file(&self) -> Option<&[u8]> {
        match self {
            Self::NewBacking { name, cause, .. } => cause.file().or(Some(name)),
            _ => None,
        }
    }
}

impl fmt::Display for RebaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewBacking { name, backing_depth, cause } => {
                write!(f, "Could not open new backing file '{}': ", Printable(name))?;
                for _ in 0..*backing_depth {
                    f.write_str("Could not open backing file: ")?;
                }
                cause.fmt(f)
            }
            Self::Header { name, text } => {
                let name = name.as_deref().unwrap_or(b"(null)");
                write!(f, "Could not change the backing file to '{}': {}", Printable(name), Printable(text))
            }
            Self::NoCompression => f.write_str("Compression not supported for this file format"),
            Self::Write { text, .. } => write!(f, "Error while writing to COW image: {}", Printable(text)),
            Self::ReadOld => f.write_str("error while reading from old backing file"),
            Self::ReadNew => f.write_str("error while reading from new backing file"),
        }
    }
}
