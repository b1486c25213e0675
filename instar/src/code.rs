//! Stable names for what can go wrong, for programs that must tell one failure from another, and what to do about each.
//!
//! Knows words only. Each error type of this program says itself which of these it is.

use std::fmt;
use std::io;
use std::str::FromStr;

/// What kind of failure it is. Names never change their meaning; new ones may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// The command line is not understood, or contradicts itself.
    Usage,
    /// A file or directory does not exist.
    NotFound,
    /// The system does not allow it to this user.
    PermissionDenied,
    /// No room, or no quota, is left.
    NoSpace,
    /// The system failed to read, write or open something for another reason.
    Io,
    /// Something else than a regular file or an allowed block device.
    NotAFile,
    /// A name that leads elsewhere than to a local file.
    NotLocal,
    /// A name that an image records, outside of the directories that may be used.
    Policy,
    /// Somebody else holds the image.
    ImageInUse,
    /// The file system has no locks.
    NoLocks,
    /// A backing chain that comes back to itself.
    BackingLoop,
    /// More images in a chain than are followed.
    ChainTooLong,
    /// A format, or a feature of one, that is not supported here.
    UnsupportedFormat,
    /// A file that is no image of its format, or whose header is wrong.
    InvalidImage,
    /// Metadata that contradicts itself, or an image that is marked corrupt.
    CorruptImage,
    /// A passphrase is missing, or opens nothing.
    EncryptionKey,
    /// There is no backing file to commit into.
    NoBacking,
    /// The named base is not in the chain.
    NotInChain,
    /// It would lose data, or show other data than before.
    Refused,
    /// Other overlays read from the base.
    OtherOverlays,
    /// The header cannot name the new backing file.
    BackingNotRecorded,
    /// It was committed; only deleting the overlay failed.
    NotDeleted,
    /// Copying failed for a reason that has no other name.
    JobFailed,
    /// KVM cannot be used.
    NoKvm,
    /// A layer of the jail is missing and was demanded.
    Jail,
    /// The sandbox could not be built.
    Sandbox,
    /// What ran in the sandbox was stopped: it did what it may not do, gave up, or answered nonsense.
    GuestFault,
    /// What ran in the sandbox was stopped because it went on for too long.
    GuestStuck,
    /// The result could not be written to standard output.
    Output,
    /// There is no real qemu-img to pass a command on to.
    NoQemuImg,
    /// What was written does not read as it should.
    VerificationFailed,
    /// The machine lacks what nothing works without.
    Unfit,
}

/// What belongs to a code.
struct Entry {
    code: Code,
    name: &'static str,
    hint: Option<&'static str>,
}

const fn entry(code: Code, name: &'static str, hint: Option<&'static str>) -> Entry {
    Entry { code, name, hint }
}

#[rustfmt::skip]
const ENTRIES: &[Entry] = &[
    entry(Code::Usage, "usage", None),
    entry(Code::NotFound, "not-found", Some("check the name; a relative backing name starts in the directory of the image that records it")),
    entry(Code::PermissionDenied, "permission-denied", Some("run it as a user who may open the file; every image that changes must be writable")),
    entry(Code::NoSpace, "no-space", Some("make room on the file system and run the same command again; no data is lost")),
    entry(Code::Io, "io-error", Some("look at the system's log for the disk; once that is well, run the same command again")),
    entry(Code::NotAFile, "not-a-file", Some("name a regular file; a block device has to be named on the command line")),
    entry(Code::NotLocal, "not-local", Some("only local files are followed: copy the image here, or record another backing name (instar rebase -u)")),
    entry(Code::Policy, "policy", Some("if the name is right, allow its directory with --allow-dir DIR or INSTAR_ALLOW_DIRS")),
    entry(Code::ImageInUse, "image-in-use", Some("stop the program that uses the image, such as a virtual machine, or wait for it")),
    entry(Code::NoLocks, "no-locks", Some("move the image to a file system with locks, or mount this one with them")),
    entry(Code::BackingLoop, "backing-loop", Some("record the right backing name: instar rebase -u -b NAME -F FMT FILE")),
    entry(Code::ChainTooLong, "chain-too-long", Some("shorten the chain from its lower end, by commits of single images")),
    entry(Code::UnsupportedFormat, "unsupported-format", Some("convert the image to a supported format first (qemu-img convert)")),
    entry(Code::InvalidImage, "invalid-image", Some("check that the file is an image of the format that is given or recorded")),
    entry(Code::CorruptImage, "corrupt-image", Some("nothing was changed; copy the file, then look at the copy with qemu-img check")),
    entry(Code::EncryptionKey, "encryption-key", Some("give the passphrase with --object secret,id=ID,file=PATH and name it in --image-opts")),
    entry(Code::NoBacking, "no-backing", Some("the image stands for itself: there is nothing to commit")),
    entry(Code::NotInChain, "not-in-chain", Some("instar info --backing-chain FILE lists the images that can be named")),
    entry(Code::Refused, "refused", None),
    entry(Code::OtherOverlays, "other-overlays", Some("rebase or remove these overlays first; --force commits all the same")),
    entry(Code::BackingNotRecorded, "backing-not-recorded", Some("the image has the same backing file as before")),
    entry(Code::NotDeleted, "not-deleted", Some("the base is complete: the overlay can be deleted by hand")),
    entry(Code::JobFailed, "job-failed", Some("no data is lost; once the cause is gone, run the same command again")),
    entry(Code::NoKvm, "no-kvm", None),
    entry(Code::Jail, "jail", Some("run it on a kernel with this layer, or without --require-jail")),
    entry(Code::Sandbox, "sandbox", Some("check the limits on memory and processes (ulimit -a, cgroup)")),
    entry(Code::GuestFault, "guest-fault", Some("the image may be hostile or broken; keep it apart, and look at it with instar info")),
    entry(Code::GuestStuck, "guest-stuck", Some("the image may be hostile, or this machine overloaded; try again once")),
    entry(Code::Output, "output", Some("the command itself was carried out; only its result could not be printed")),
    entry(Code::NoQemuImg, "no-qemu-img", Some("install qemu-img, or name it in INSTAR_REAL_QEMU_IMG")),
    entry(Code::VerificationFailed, "verification-failed", None),
    entry(Code::Unfit, "unfit", Some("instar doctor says what helps")),
];

impl Code {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ENTRIES.iter().map(|entry| entry.code)
    }

    /// The name that programs see.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// What to do, where that can be said without knowing more.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        self.entry().hint
    }

    fn entry(self) -> &'static Entry {
        // The order is the enumeration's; a test checks it.
        &ENTRIES[self as usize]
    }

    /// The code for one of the system's errors, by its number; `other` where the number says no more.
    #[must_use]
    pub fn of_errno(errno: i32, other: Self) -> Self {
        match errno {
            libc::ENOENT => Self::NotFound,
            libc::EACCES | libc::EPERM | libc::EROFS => Self::PermissionDenied,
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::EISDIR | libc::ENOTDIR => Self::NotAFile,
            libc::EIO | libc::ENXIO | libc::ENODEV => Self::Io,
            libc::ENOTSUP => Self::UnsupportedFormat,
            libc::EKEYREJECTED => Self::EncryptionKey,
            _ => other,
        }
    }

    /// The code for one of the system's errors.
    #[must_use]
    pub fn of_system(error: &io::Error) -> Self {
        Self::of_errno(error.raw_os_error().unwrap_or(0), Self::Io)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(name: &str) -> Result<Self, UnknownCode> {
        Self::all().find(|code| code.name() == name).ok_or(UnknownCode)
    }
}

/// A text that is the name of no code, or of one that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode;

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is the name of no code that is known here")
    }
}

impl std::error::Error for UnknownCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_its_code_and_nothing_else_does() {
        for code in Code::all() {
            assert_eq!(code.to_string().parse(), Ok(code));
        }
        for name in ["", "Usage", "usage ", "no-such-code"] {
            assert_eq!(name.parse::<Code>(), Err(UnknownCode));
        }
    }

    #[test]
    fn every_code_has_its_own_entry_and_name() {
        let mut names = Vec::new();
        for (index, entry) in ENTRIES.iter().enumerate() {
            assert_eq!(entry.code as usize, index, "{} is out of order", entry.name);
            assert!(!names.contains(&entry.name), "{} is there twice", entry.name);
            assert!(entry.name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-'), "{}", entry.name);
            names.push(entry.name);
        }
        assert_eq!(Code::Unfit as usize, names.len() - 1, "the last code has an entry");
    }

    #[test]
    fn numbers_of_the_system_become_codes() {
        let of = |errno| Code::of_errno(errno, Code::JobFailed);
        assert_eq!(
            [of(2), of(13), of(28), of(122), of(5)],
            [Code::NotFound, Code::PermissionDenied, Code::NoSpace, Code::NoSpace, Code::Io]
        );
        assert_eq!([of(0), of(75)], [Code::JobFailed, Code::JobFailed]);
        assert_eq!(Code::of_system(&io::Error::other("no number")), Code::Io);
    }
}
