//! What the file system of a directory can do, tried on files that have no names.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};

use super::finding::{Finding, Need, Outcome, Trouble};
use crate::files::locks::{Claim, LockError, claim};
use crate::files::{open_again_for_reading, system_text};

/// Length of a block that every file system can work with.
const BLOCK_BYTES: usize = 4096;
/// Length of the tried files: more than one block of any file system.
const FILE_BYTES: u64 = 1 << 20;
const BETTER: &str = "keep the images on a local file system that has it, such as ext4, XFS or btrfs";

/// A block in memory as `O_DIRECT` wants it.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// All of them; in a directory that takes no file nothing can be tried.
pub(super) fn all(directory: &Path) -> Vec<Finding> {
    type Check = (&'static str, Need, fn(&Path) -> io::Result<Outcome>);
    const CHECKS: [Check; 6] = [
        ("locks", Need::Always, locks),
        ("direct", Need::For("-t none and -t directsync, and some of the speed"), direct),
        ("allocate", Need::For("some of the speed"), allocate),
        ("punch-hole", Need::For("space that is given back to the file system"), punch_hole),
        ("seek-data", Need::For("the speed of rebase on files with holes"), seek_data),
        ("reflink", Need::For("copies that share blocks instead of moving them"), reflink),
    ];
    let cannot = |error: &io::Error| {
        let cause = format!("'{}': {}", directory.display(), system_text(error));
        Trouble::new(cause, "name a directory in which files can be made: instar doctor DIR")
    };
    let directory_finding = Finding::new(
        "directory",
        Need::Always,
        match file(directory) {
            Ok(_) => Ok(format!("files can be made in '{}'", directory.display())),
            Err(error) => Err(cannot(&error)),
        },
    );
    if directory_finding.outcome.is_err() {
        return vec![directory_finding];
    }
    let tried = CHECKS.map(|(name, need, check)| {
        Finding::new(
            name,
            need,
            check(directory).unwrap_or_else(|error| Err(Trouble::new(system_text(&error), BETTER))),
        )
    });
    [directory_finding].into_iter().chain(tried).collect()
}

fn file(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
}

/// A file full of ones.
fn full_file(directory: &Path) -> io::Result<File> {
    let file = file(directory)?;
    file.write_all_at(&vec![1; usize::try_from(FILE_BYTES).unwrap_or(usize::MAX)], 0)?;
    file.sync_data()?;
    Ok(file)
}

/// Image locks: one holder, and a second one who has to be refused.
pub(super) fn locks(directory: &Path) -> io::Result<Outcome> {
    let remedy = "keep the images on a file system with locks; on NFS, mount it without nolock";
    let first = file(directory)?;
    let second = open_again_for_reading(&first)?;
    let name = directory.as_os_str().as_encoded_bytes();
    if let Err(error) = claim(&first, Claim::WRITE, name) {
        return Ok(Err(Trouble::new(error.to_string(), remedy)));
    }
    Ok(match claim(&second, Claim::WRITE, name) {
        Err(LockError::Taken { .. }) => Ok("a second writer is refused".to_owned()),
        Err(error) => Err(Trouble::new(error.to_string(), remedy)),
        Ok(()) => Err(Trouble::new("locks are granted twice, so they keep nobody from an image", remedy)),
    })
}

/// `O_DIRECT`: a block, written past the page cache and read back.
pub(super) fn direct(directory: &Path) -> io::Result<Outcome> {
    let file = file(directory)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(link)?;
    direct.write_all_at(&Block([1; BLOCK_BYTES]).0, 0)?;
    let mut read = Block([0; BLOCK_BYTES]);
    direct.read_exact_at(&mut read.0, 0)?;
    Ok(expect(read.0 == [1; BLOCK_BYTES], "O_DIRECT", "what was written past the page cache reads otherwise"))
}

/// `fallocate`: space for a file before anything is written.
pub(super) fn allocate(directory: &Path) -> io::Result<Outcome> {
    let file = file(directory)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
    Ok(expect(file.metadata()?.len() == FILE_BYTES, "fallocate", "fallocate left the file as short as it was"))
}

/// A hole in a file: it takes less space, and reads as zeros.
pub(super) fn punch_hole(directory: &Path) -> io::Result<Outcome> {
    let file = full_file(directory)?;
    let before = file.metadata()?.blocks();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, FILE_BYTES)?;
    let mut read = [1; BLOCK_BYTES];
    file.read_exact_at(&mut read, 0)?;
    let is_given_back = read == [0; BLOCK_BYTES] && file.metadata()?.blocks() < before;
    Ok(expect(is_given_back, "FALLOC_FL_PUNCH_HOLE", "the file takes as much space with a hole as without one"))
}

/// `SEEK_DATA`: where the data of a file with a hole starts.
pub(super) fn seek_data(directory: &Path) -> io::Result<Outcome> {
    let file = file(directory)?;
    file.write_all_at(&[1; BLOCK_BYTES], FILE_BYTES)?;
    file.sync_data()?;
    let data = seek(&file, SeekFrom::Data(0))?;
    Ok(expect(data > 0, "SEEK_DATA", "a hole is not told from data"))
}

/// Blocks that two files share.
pub(super) fn reflink(directory: &Path) -> io::Result<Outcome> {
    let (source, mut target) = (full_file(directory)?, file(directory)?);
    if let Err(error) = ioctl_ficlone(&target, &source) {
        let copied = copy_file_range(&source, Some(&mut 0), &target, Some(&mut 0), BLOCK_BYTES);
        let copied =
            copied.map_or_else(|error| system_text(&error.into()), |_| "works, and moves the bytes".to_owned());
        let cause = format!("FICLONE: {}; copy_file_range: {copied}", system_text(&error.into()));
        return Ok(Err(Trouble::new(
            cause,
            "keep the images on XFS or btrfs if they should be copied without being moved",
        )));
    }
    let is_whole = target.seek(io::SeekFrom::End(0))? == FILE_BYTES;
    Ok(expect(is_whole, "FICLONE", "the file that shares the other one's blocks has another length"))
}

fn expect(works: bool, by: &str, otherwise: &str) -> Outcome {
    if works { Ok(by.to_owned()) } else { Err(Trouble::new(otherwise, BETTER)) }
}
