//! Opens image files: the one on the command line as the user says, all others through the gate.
//!
//! Regular files, and block devices that the user answers for; nothing here blocks on a FIFO or wakes another device. Locks
//! are taken together with the file.

use std::fs::Metadata;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};
use tracing::info;

use super::error::Cause;
use super::locks::{self, Claim};
use super::policy::path;
use super::walk::Found;
use crate::code::Code;
use crate::text::Printable;

/// Shorter files are read through the page cache: what is made for reading past it takes as long.
const PROBED_BYTES_MIN: u64 = 16 << 20;

/// How a file is opened and what its locks claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read-only, without any lock.
    Unlocked,
    /// Read-only, for metadata.
    Look,
    /// Read-only.
    Read,
    /// Read and write.
    Write,
}

/// Which kinds of files are images.
#[derive(Clone, Copy, Debug)]
enum Kinds {
    /// The user named the place: regular files and block devices.
    Named,
    /// An image named it, in a directory that is allowed: regular files.
    Found,
}

impl Kinds {
    fn allow(self, status: &Metadata) -> bool {
        status.is_file() || (matches!(self, Self::Named) && status.file_type().is_block_device())
    }
}

/// What the file system knows about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Length in bytes.
    pub length_bytes: u64,
    /// Space that it takes, in bytes.
    pub allocated_bytes: u64,
}

/// An open image file and its locks, which go when it is closed.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    direct: Option<File>,
    bulk: Option<File>,
    probed: Option<File>,
    name: Vec<u8>,
    canonical: PathBuf,
    access: Access,
    identity: (u64, u64),
    is_block_device: bool,
}

/// Device and inode of a file, or the number of a block device, of which there may be several nodes.
pub(super) fn identity_of(status: &Metadata) -> (u64, u64) {
    if status.file_type().is_block_device() { (status.rdev(), 0) } else { (status.dev(), status.ino()) }
}

impl ImageFile {
    fn new(file: File, name: &[u8], canonical: PathBuf, access: Access, kinds: Kinds) -> Result<Self, Cause> {
        let status = file.metadata().map_err(|error| Cause::system(name, &error))?;
        if !kinds.allow(&status) {
            return Err(Cause::NotRegular(name.to_vec()));
        }
        let claim = match access {
            Access::Unlocked => None,
            Access::Look => Some(Claim::LOOK),
            Access::Read => Some(Claim::READ),
            Access::Write => Some(Claim::WRITE),
        };
        if let Some(claim) = claim {
            locks::claim(&file, claim, name).map_err(Cause::Lock)?;
        }
        info!(file = %Printable(name), ?access, is_locked = claim.is_some(), length_bytes = status.len(), "opened");
        let (identity, is_block_device) = (identity_of(&status), status.file_type().is_block_device());
        let name = name.to_vec();
        Ok(Self { file, direct: None, bulk: None, probed: None, name, canonical, access, identity, is_block_device })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name as messages show it.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The absolute path without symbolic links, as it was when the file was opened.
    pub fn canonical(&self) -> &PathBuf {
        &self.canonical
    }

    /// How it was opened.
    pub fn access(&self) -> Access {
        self.access
    }

    /// True for a file that may be written.
    pub fn is_writable(&self) -> bool {
        self.access == Access::Write
    }

    /// Whether it is a block device, which has no length to change and no name to remove.
    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// Equal for two names of one file or block device.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Length and space.
    ///
    /// # Errors
    /// The system's, of reading a file's status.
    pub fn facts(&self) -> io::Result<FileFacts> {
        let status = self.file.metadata()?;
        let length_bytes = if self.is_block_device {
            // A block device states its length only this way. Nobody reads from where the file stands.
            u64::try_from(lseek(&self.file, 0, Whence::SeekEnd)?).unwrap_or(0)
        } else {
            status.len()
        };
        Ok(FileFacts { length_bytes, allocated_bytes: status.blocks().saturating_mul(512) })
    }

    /// Turns a reader into a writer of the very same file. After a failure it may hold a writer's locks.
    ///
    /// # Errors
    /// No permission to write, or somebody else who reads the file and does not share it with writers.
    pub fn make_writable(&mut self) -> Result<(), Cause> {
        if self.access == Access::Write {
            return Ok(());
        }
        let writer = self.open_again(true, OFlag::empty()).map_err(|error| Cause::system(&self.name, &error))?;
        locks::claim(&self.file, Claim::WRITE, &self.name).map_err(Cause::Lock)?;
        locks::take(&writer, Claim::WRITE, &self.name).map_err(Cause::Lock)?;
        self.file = writer;
        self.access = Access::Write;
        info!(file = %Printable(&self.name), access = ?self.access, is_locked = true, "opened for writing");
        if self.direct.is_some() { self.bypass_cache() } else { Ok(()) }
    }

    /// Opens the very same file once more.
    fn open_again(&self, writable: bool, flags: OFlag) -> io::Result<File> {
        open_again(&self.file, writable, flags)
    }

    /// Opens the file a second time, for reading and writing past the system's page cache.
    ///
    /// # Errors
    /// A file system that has no such way.
    pub fn bypass_cache(&mut self) -> Result<(), Cause> {
        let opened = self.open_again(self.is_writable(), OFlag::O_DIRECT);
        self.direct = Some(opened.map_err(|error| match error.raw_os_error() {
            Some(nix::libc::EINVAL) => {
                let text = "filesystem does not support O_DIRECT".to_owned();
                Cause::System { name: self.name.clone(), text, code: Code::Usage }
            }
            _ => Cause::system(&self.name, &error),
        })?);
        Ok(())
    }

    /// The file as [`ImageFile::bypass_cache`] has opened it.
    pub fn direct(&self) -> Option<&File> {
        self.direct.as_ref()
    }

    /// Opens the file a second time, so that long runs can be written past the system's page cache. Not possible everywhere,
    /// and no loss where it is not.
    pub fn open_for_bulk(&mut self) {
        if self.direct.is_none() && self.is_writable() && !self.is_block_device {
            self.bulk = self.open_again(true, OFlag::O_DIRECT).ok();
        }
    }

    /// The file as [`ImageFile::open_for_bulk`] has opened it.
    pub fn bulk(&self) -> Option<&File> {
        self.bulk.as_ref()
    }

    /// Opens the file a second time, so that single blocks of it can be compared past the system's page cache, if there may be enough of
    /// them. Not possible everywhere, and no loss where it is not.
    pub fn open_for_probes(&mut self) {
        let is_long = || self.facts().is_ok_and(|facts| facts.length_bytes >= PROBED_BYTES_MIN);
        if self.direct.is_none() && !self.is_block_device && is_long() {
            self.probed = self.open_again(false, OFlag::O_DIRECT).ok();
        }
    }

    /// The file as [`ImageFile::open_for_probes`] has opened it.
    pub fn probed(&self) -> Option<&File> {
        self.probed.as_ref()
    }

    /// Makes durable what the file holds, its length among it.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives the open file away, and its locks with it: they last until it and every copy of it is closed.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Opens the very file that is open already, for reading only and without any lock.
///
/// # Errors
/// The system's.
pub fn open_again_for_reading(file: &File) -> io::Result<File> {
    open_again(file, false, OFlag::empty())
}

fn open_again(file: &File, writable: bool, flags: OFlag) -> io::Result<File> {
    // The link of an open file leads to that file itself, whatever its name stands for by now.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(writable).custom_flags(flags.bits()).open(link)
}

/// Opens a file that the user named.
///
/// # Errors
/// As the system says; a file that is not a regular one; locks.
pub fn open_operand(name: &[u8], access: Access) -> Result<ImageFile, Cause> {
    if name.is_empty() {
        return Err(Cause::EmptyName);
    }
    open_path(path(name).to_path_buf(), name, access)
}

fn open_path(path: PathBuf, name: &[u8], access: Access) -> Result<ImageFile, Cause> {
    let system = |error: io::Error| Cause::system(name, &error);
    let status = std::fs::metadata(&path).map_err(system)?;
    let writable = access == Access::Write;
    // A directory opened for writing is left to the system, whose words for it users know.
    let is_for_the_system = Kinds::Named.allow(&status) || (status.is_dir() && writable);
    if !is_for_the_system {
        return Err(Cause::NotRegular(name.to_vec()));
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).write(writable).custom_flags(flags.bits()).open(&path).map_err(system)?;
    let canonical = std::fs::canonicalize(&path).map_err(system)?;
    ImageFile::new(file, name, canonical, access, Kinds::Named)
}

/// Opens what the gate has admitted.
pub(super) fn open_found(found: Found<'_>, name: &[u8], access: Access) -> Result<ImageFile, Cause> {
    match found {
        Found::Named(path) => open_path(path, name, access),
        Found::Entry { directory, name: entry, canonical } => {
            let mode = if access == Access::Write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
            let flags = mode | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let file = openat(directory.as_fd(), entry.as_os_str(), flags, Mode::empty())
                .map_err(|errno| Cause::system(name, &io::Error::from(errno)))?;
            ImageFile::new(File::from(file), name, canonical, access, Kinds::Found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_direct_access_is_named_as_the_reason() {
        // The file system of processes has no O_DIRECT.
        let mut image = open_operand(b"/proc/version", Access::Unlocked).expect("opens");
        let refusal = image.bypass_cache().expect_err("refused").to_string();
        assert_eq!(refusal, "Could not open '/proc/version': filesystem does not support O_DIRECT");
        assert!(image.direct().is_none());
    }
}
