//! Removes a file's name later, through a directory that is held open: then no path need be walked any more.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::open::ImageFile;

/// A file that is to be removed.
#[derive(Debug)]
pub struct Removal {
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl Removal {
    /// Holds the directory of an open image.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare(image: &ImageFile) -> io::Result<Self> {
        let path = image.canonical();
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(AT_FDCWD, parent, flags, Mode::empty())?;
        Ok(Self { directory, name, identity: image.identity() })
    }

    /// Removes the file's name, unless something else bears it by now.
    ///
    /// # Errors
    /// The system's, or that the file is not there any more.
    pub fn carry_out(&self) -> io::Result<()> {
        let status = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if (status.st_dev, status.st_ino) != self.identity {
            return Err(io::Error::other("another file has taken its place"));
        }
        Ok(unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }
}

impl AsFd for Removal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::super::open::{Access, open_operand};
    use super::*;

    #[test]
    fn only_the_file_that_is_open_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, moved) = (directory.path().join("image"), directory.path().join("moved"));
        fs::write(&path, b"x").expect("a file");
        let image = open_operand(path.as_os_str().as_encoded_bytes(), Access::Look).expect("opens");
        let removal = Removal::prepare(&image).expect("held");
        fs::rename(&path, &moved).expect("moved");
        assert_eq!(removal.carry_out().expect_err("not there").kind(), io::ErrorKind::NotFound);
        File::create(&path).expect("another file");
        assert_eq!(removal.carry_out().expect_err("refused").to_string(), "another file has taken its place");
        fs::rename(&moved, &path).expect("moved back");
        removal.carry_out().expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_was_renamed_is_still_the_same() {
        let place = tempfile::tempdir().expect("a directory");
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        fs::create_dir(&old).expect("a directory");
        fs::write(old.join("image"), b"x").expect("a file");
        let image = open_operand(old.join("image").as_os_str().as_encoded_bytes(), Access::Look).expect("opens");
        let removal = Removal::prepare(&image).expect("held");
        fs::rename(&old, &new).expect("renamed");
        removal.carry_out().expect("removed");
        assert!(!new.join("image").exists());
    }
}
