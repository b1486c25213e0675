//! Values of options, and how each is written on a command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How the files of a chain are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Through the page cache; on the disk at every barrier. What is used where nothing else is said.
    Writeback,
    /// Past the page cache; on the disk at every barrier.
    None,
    /// Through the page cache; on the disk after every batch of writes.
    Writethrough,
    /// Past the page cache; on the disk after every batch of writes.
    Directsync,
    /// Through the page cache, and never waited for: what a power loss leaves is not defined.
    Unsafe,
}

impl Cache {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
            Self::Writethrough => "writethrough",
            Self::Directsync => "directsync",
            Self::Unsafe => "unsafe",
        }
    }
}

/// What the program that reads and writes metadata runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// A virtual machine. Needs `/dev/kvm`.
    Kvm,
    /// A process that may do nothing; for machines without `/dev/kvm`. The weaker sandbox.
    Process,
}

impl Sandbox {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Process => "process",
        }
    }
}

/// What becomes of the overlay once the base has what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It stays as it is.
    Keep,
    /// It is emptied, although a base was named or it is a vmdk image. Refused where it would show older data.
    Empty,
    /// It is deleted, once the base is on the disk.
    Delete,
}

impl Afterwards {
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Keep => "--drop",
            Self::Empty => "--empty",
            Self::Delete => "--delete-overlay",
        }
    }
}

/// The name of an image below another one, as images record it: a relative path starts in the directory of the overlay,
/// wherever the program runs.
///
/// Everything that is a path can be used in its place. A path always stands for a file: where its start would be read as that of
/// another kind of name (`nbd:…`, `json:{…}`), it gets `./` in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName(OsString);

impl BackingName {
    /// A name that goes to the program exactly as it is here, such as `json:{…}`.
    #[must_use]
    pub fn exactly(name: impl Into<OsString>) -> Self {
        Self(name.into())
    }

    pub(super) fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl<P: AsRef<Path>> From<P> for BackingName {
    fn from(path: P) -> Self {
        Self(as_path(path.as_ref()))
    }
}

/// A path as the program reads names: with `./` in front where a colon would make it another kind of name.
pub(super) fn as_path(path: &Path) -> OsString {
    let name = path.as_os_str();
    let first = name.as_bytes().iter().find(|byte| matches!(byte, b':' | b'/'));
    if first == Some(&b':') { [OsStr::new("./"), name].into_iter().collect() } else { name.to_owned() }
}

/// A passphrase that encrypted images are opened with, under a name of the caller's choice. It comes from a file: what
/// stands on a command line is seen by everybody who may list processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    id: String,
    file: PathBuf,
    is_base64: bool,
}

impl Secret {
    /// All bytes of a file, a newline at its end as well. The id begins with a letter; letters, digits, `-`, `.` and `_`
    /// follow.
    #[must_use]
    pub fn file(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { id: id.into(), file: path.into(), is_base64: false }
    }

    /// What the file holds is base64 of the passphrase.
    #[must_use]
    pub fn base64(mut self, is_base64: bool) -> Self {
        self.is_base64 = is_base64;
        self
    }

    /// The value of `--object`.
    pub(super) fn object(&self) -> OsString {
        let mut object = b"secret".to_vec();
        push_pair(&mut object, "id", self.id.as_bytes());
        push_pair(&mut object, "file", self.file.as_os_str().as_bytes());
        if self.is_base64 {
            push_pair(&mut object, "format", b"base64");
        }
        OsString::from_vec(object)
    }
}

/// Appends `key=value`, behind a comma unless it is the first; commas of the value are doubled.
pub(super) fn push_pair(text: &mut Vec<u8>, key: &str, value: &[u8]) {
    if !text.is_empty() {
        text.push(b',');
    }
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    for &byte in value {
        text.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
}
