//! Why a file could not be opened, as data: the sentence that a user reads is made in one place, from the cause.

use std::fmt;
use std::io;

use super::locks::LockError;
use crate::code::Code;
use crate::text::Printable;

/// A failure to open an image or something below it.
#[derive(Debug)]
pub struct OpenError {
    /// The image named on the command line, as typed.
    pub image: Vec<u8>,
    /// How many backing links below it the failure lies; 0 for the image itself.
    pub backing_depth: usize,
    /// What went wrong there.
    pub cause: Cause,
}

/// What can go wrong with one file.
#[derive(Debug)]
pub enum Cause {
    /// The system refused; the name is the resolved one, the text the system's.
    System {
        /// The name as it was opened.
        name: Vec<u8>,
        /// The system's words.
        text: String,
        /// What kind of failure it is.
        code: Code,
    },
    /// Not a regular file.
    NotRegular(Vec<u8>),
    /// The empty name.
    EmptyName,
    /// A name with a protocol in front that no image tool knows.
    UnknownProtocol(Vec<u8>),
    /// A name that leads elsewhere than to a local file; the text says which kind.
    NotLocal {
        /// The name as recorded.
        name: Vec<u8>,
        /// What it is instead of a local file.
        finding: String,
    },
    /// The gate said no; the answer does not depend on whether the file exists.
    Forbidden(Vec<u8>),
    /// Somebody else holds the image.
    Lock(LockError),
    /// The chain comes back to a file that it has already passed.
    Loop(Vec<u8>),
    /// More links than this program follows.
    TooDeep(usize),
    /// A format name that no driver has.
    UnknownDriver(Vec<u8>),
    /// A finding about an image, as the sandbox words it.
    Image {
        /// What kind of finding it is.
        code: Code,
        /// The image as messages show it.
        name: Vec<u8>,
        /// The finding.
        text: Vec<u8>,
    },
}

impl Cause {
    /// A system error about `name`.
    pub fn system(name: &[u8], error: &io::Error) -> Self {
        Self::System { name: name.to_vec(), text: system_text(error), code: Code::of_system(error) }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::System { code, .. } | Self::Image { code, .. } => *code,
            Self::NotRegular(_) => Code::NotAFile,
            Self::EmptyName => Code::Usage,
            Self::UnknownProtocol(_) | Self::NotLocal { .. } => Code::NotLocal,
            Self::Forbidden(_) => Code::Policy,
            Self::Lock(LockError::Taken { .. }) => Code::ImageInUse,
            Self::Lock(LockError::System { .. }) => Code::NoLocks,
            Self::Loop(_) => Code::BackingLoop,
            Self::TooDeep(_) => Code::ChainTooLong,
            Self::UnknownDriver(_) => Code::UnsupportedFormat,
        }
    }

    /// The file that it is about, where the cause alone says so.
    #[must_use]
    pub fn file(&self) -> Option<&[u8]> {
        match self {
            Self::System { name, .. }
            | Self::NotRegular(name)
            | Self::NotLocal { name, .. }
            | Self::Forbidden(name)
            | Self::Loop(name)
            | Self::Image { name, .. }
            | Self::Lock(LockError::Taken { image: name, .. }) => Some(name),
            Self::EmptyName
            | Self::UnknownProtocol(_)
            | Self::Lock(LockError::System { .. })
            | Self::TooDeep(_)
            | Self::UnknownDriver(_) => None,
        }
    }
}

/// The system's words for an error, without the number that the standard library appends.
pub fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { name, text, .. } => write!(f, "Could not open '{}': {text}", Printable(name)),
            Self::NotRegular(name) => {
                write!(f, "'file' driver requires '{}' to be a regular file", Printable(name))
            }
            Self::EmptyName => f.write_str("The 'file' block driver requires a file name"),
            Self::UnknownProtocol(protocol) => write!(f, "Unknown protocol '{}'", Printable(protocol)),
            Self::NotLocal { name, finding } => {
                write!(f, "'{}' {finding}; only names of local files are followed", Printable(name))
            }
            Self::Forbidden(name) => write!(
                f,
                "The image names '{}', which is outside of the directories that may be used; \
                 --allow-dir DIR allows a directory, --allow-any-path every file",
                Printable(name)
            ),
            Self::Lock(error) => error.fmt(f),
            Self::Loop(name) => write!(f, "Backing file '{}' creates an infinite loop.", Printable(name)),
            Self::TooDeep(limit) => {
                write!(f, "The backing chain is longer than {limit} images; commit lower ones of them first")
            }
            Self::UnknownDriver(name) => write!(f, "Unknown driver '{}'", Printable(name)),
            Self::Image { text, .. } => Printable(text).fmt(f),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Could not open '{}': ", Printable(&self.image))?;
        for _ in 0..self.backing_depth {
            f.write_str("Could not open backing file: ")?;
        }
        self.cause.fmt(f)
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_the_system_words_them() {
        assert_eq!(system_text(&io::Error::from_raw_os_error(2)), "No such file or directory");
        assert_eq!(system_text(&io::Error::from_raw_os_error(5)), "Input/output error");
        assert_eq!(system_text(&io::Error::other("own words")), "own words");
    }

    #[test]
    fn nesting_names_every_link() {
        let error = OpenError { image: b"a.qcow2".to_vec(), backing_depth: 2, cause: Cause::EmptyName };
        assert_eq!(
            error.to_string(),
            "Could not open 'a.qcow2': Could not open backing file: Could not open backing file: \
             The 'file' block driver requires a file name"
        );
    }
}
