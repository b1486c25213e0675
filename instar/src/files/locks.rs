//! Image locks: the advisory byte-range locks by which qemu programs keep out of each other's way.
//!
//! A holder takes a shared lock on byte 100 + p for each permission p it uses and on byte 200 + p for each it does not
//! share; then it looks whether anybody holds the opposite byte. The locks belong to the open file description.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::error::system_text;
use crate::text::Printable;

/// Where the bytes for permissions in use start.
const USED_BASE: libc::off_t = 100;
/// Where the bytes for permissions that are not shared start.
const UNSHARED_BASE: libc::off_t = 200;

/// What a holder of an image may do with it; the value is the byte's distance from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Reading data that makes sense.
    ConsistentRead = 0,
    /// Writing.
    Write = 1,
    /// Writing what is already there.
    WriteUnchanged = 2,
    /// Changing the length.
    Resize = 3,
}

impl Permission {
    fn name(self) -> &'static str {
        match self {
            Self::ConsistentRead => "consistent read",
            Self::Write => "write",
            Self::WriteUnchanged => "write unchanged",
            Self::Resize => "resize",
        }
    }

    fn byte(self, base: libc::off_t) -> libc::off_t {
        base + self as libc::off_t
    }
}

/// What one holder claims.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    used: &'static [Permission],
    unshared: &'static [Permission],
}

impl Claim {
    /// Looking at metadata only: nobody may write meanwhile.
    pub const LOOK: Self = Self { used: &[], unshared: &[Permission::Write, Permission::Resize] };
    /// Reading.
    pub const READ: Self =
        Self { used: &[Permission::ConsistentRead], unshared: &[Permission::Write, Permission::Resize] };
    /// Reading and writing, alone.
    pub const WRITE: Self = Self {
        used: &[Permission::ConsistentRead, Permission::Write, Permission::Resize],
        unshared: &[Permission::Write, Permission::Resize],
    };
}

/// Why a claim failed.
#[derive(Debug)]
pub enum LockError {
    /// Another holder uses what this one does not share, or does not share what this one uses.
    Taken {
        /// The image's name.
        image: Vec<u8>,
        /// The permission in question.
        permission: Permission,
        /// True where the other uses it and this holder would not share it.
        shared: bool,
    },
    /// The system cannot lock this file.
    System {
        /// The byte.
        byte: i64,
        /// The system's words.
        text: String,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { image, permission, shared } => {
                let shared = if *shared { "shared " } else { "" };
                writeln!(f, "Failed to get {shared}\"{}\" lock", permission.name())?;
                write!(f, "Is another process using the image [{}]?", Printable(image))
            }
            Self::System { byte, text } => write!(f, "Failed to lock byte {byte}: {text}"),
        }
    }
}

/// Takes a claim's locks and checks that nobody stands against it. What is already held stays held; after a failure the
/// file has to be closed.
///
/// # Errors
/// Another holder, or a file system without locks.
pub fn claim(file: &File, claim: Claim, image: &[u8]) -> Result<(), LockError> {
    take(file, claim, image)?;
    let taken = |permission: Permission, shared| LockError::Taken { image: image.to_vec(), permission, shared };
    for &permission in claim.used {
        if held_by_another(file, permission.byte(UNSHARED_BASE))? {
            return Err(taken(permission, false));
        }
    }
    for &permission in claim.unshared {
        if held_by_another(file, permission.byte(USED_BASE))? {
            return Err(taken(permission, true));
        }
    }
    Ok(())
}

/// Takes a claim's locks without looking for others: for a second description of a file whose claim already stands.
///
/// # Errors
/// A file system without locks.
pub fn take(file: &File, claim: Claim, image: &[u8]) -> Result<(), LockError> {
    let used = claim.used.iter().map(|&permission| (permission, USED_BASE));
    let unshared = claim.unshared.iter().map(|&permission| (permission, UNSHARED_BASE));
    for (permission, base) in used.chain(unshared) {
        let byte = permission.byte(base);
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let shared = base == UNSHARED_BASE;
                return Err(LockError::Taken { image: image.to_vec(), permission, shared });
            }
            Err(errno) => return Err(system(byte, errno)),
        }
    }
    Ok(())
}

fn held_by_another(file: &File, byte: libc::off_t) -> Result<bool, LockError> {
    let mut range = range(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut range)).map_err(|errno| system(byte, errno))?;
    Ok(libc::c_int::from(range.l_type) != libc::F_UNLCK)
}

fn range(kind: libc::c_int, byte: libc::off_t) -> libc::flock {
    libc::flock {
        // The three kinds are 0, 1 and 2, and the origin "start of file" is 0.
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: 0,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn system(byte: libc::off_t, errno: Errno) -> LockError {
    LockError::System { byte, text: system_text(&io::Error::from(errno)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_descriptions() -> (tempfile::NamedTempFile, File, File) {
        let image = tempfile::NamedTempFile::new().expect("a temporary file");
        let first = File::open(image.path()).expect("opens");
        let second = File::open(image.path()).expect("opens");
        (image, first, second)
    }

    fn text(result: Result<(), LockError>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn two_readers_share() {
        let (_image, first, second) = two_descriptions();
        claim(&first, Claim::READ, b"x").expect("first");
        claim(&second, Claim::READ, b"x").expect("second");
    }

    #[test]
    fn a_second_writer_is_refused_for_the_write_lock() {
        let (_image, first, second) = two_descriptions();
        claim(&first, Claim::WRITE, b"x").expect("first");
        let expected = "Failed to get \"write\" lock\nIs another process using the image [x]?";
        assert_eq!(text(claim(&second, Claim::WRITE, b"x")), expected);
    }

    #[test]
    fn a_reader_beside_a_writer_is_refused_for_sharing() {
        let (_image, first, second) = two_descriptions();
        claim(&first, Claim::WRITE, b"x").expect("first");
        let expected = "Failed to get shared \"write\" lock\nIs another process using the image [a\\nb]?";
        assert_eq!(text(claim(&second, Claim::LOOK, b"a\nb")), expected);
    }

    #[test]
    fn a_reader_grows_into_a_writer_only_alone() {
        let (_image, first, second) = two_descriptions();
        claim(&first, Claim::READ, b"x").expect("first");
        claim(&first, Claim::WRITE, b"x").expect("alone");
        drop(first);
        let (image, first, _) = two_descriptions();
        let second_of_same = File::open(image.path()).expect("opens");
        drop(second);
        claim(&first, Claim::READ, b"x").expect("first");
        claim(&second_of_same, Claim::READ, b"x").expect("second");
        assert!(text(claim(&first, Claim::WRITE, b"x")).starts_with("Failed to get \"write\" lock"));
    }

    #[test]
    fn closing_gives_the_locks_up() {
        let (_image, first, second) = two_descriptions();
        claim(&first, Claim::WRITE, b"x").expect("first");
        drop(first);
        claim(&second, Claim::WRITE, b"x").expect("free again");
    }
}
