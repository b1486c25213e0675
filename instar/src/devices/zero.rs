//! Makes ranges of a file read as zeros, or gives their space back: by the file system's means where it has them.

use std::io;

use rustix::fs::FallocateFlags;

use super::backend::{Backend, retry};

/// Length of one write of zeros in bytes.
const ZEROS_BYTES: usize = 64 << 10;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// Makes a range read as zeros; the file grows as needed. `may_unmap` allows giving the space back.
///
/// # Errors
/// The system's; `EACCES` for a file that is read-only.
pub(super) fn write_zeroes(target: &Backend<'_>, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
    let end = target.check_write(offset, length)?;
    if length == 0 {
        return Ok(());
    }
    if let Some(rehearsal) = target.rehearsal() {
        rehearsal.zero(offset, end, !may_unmap)?;
        target.grown_to(end);
        return Ok(());
    }
    // What is in the file's way is made zero; what lies beyond its end becomes zero by growing.
    let inside = end.min(target.length_bytes()).saturating_sub(offset);
    let ways: &[FallocateFlags] = if may_unmap {
        &[FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE), FallocateFlags::ZERO_RANGE]
    } else {
        &[FallocateFlags::ZERO_RANGE]
    };
    if may_unmap {
        zero_inside(target, offset, inside, ways)?;
        grow(target, end)
    } else {
        zero_inside(target, offset, length, ways)?;
        target.grown_to(end);
        Ok(())
    }
}

/// Gives the space of a range back where the file system can; what it reads as afterwards does not matter.
///
/// # Errors
/// The system's; `EACCES` for a file that is read-only. A file system that cannot do it is no error.
pub(super) fn discard(target: &Backend<'_>, offset: u64, length: u64) -> io::Result<()> {
    let end = target.check_write(offset, length)?.min(target.length_bytes());
    if end <= offset {
        return Ok(());
    }
    if let Some(rehearsal) = target.rehearsal() {
        return rehearsal.release(offset, end);
    }
    match punch(target, offset, end - offset, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE) {
        Err(error) if unsupported(&error) => Ok(()),
        result => result,
    }
}

fn zero_inside(target: &Backend<'_>, offset: u64, length: u64, ways: &[FallocateFlags]) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    for way in ways {
        match punch(target, offset, length, *way) {
            Err(error) if unsupported(&error) => {}
            result => return result,
        }
    }
    let mut done = 0;
    while done < length {
        let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(ZEROS_BYTES);
        target.write_all(&ZEROS[..count], offset + done)?;
        done += count as u64;
    }
    Ok(())
}

fn grow(target: &Backend<'_>, end: u64) -> io::Result<()> {
    if end > target.length_bytes() {
        let _alone = target.alone();
        retry(|| rustix::fs::ftruncate(target.file(), end))?;
        target.grown_to(end);
    }
    Ok(())
}

fn punch(target: &Backend<'_>, offset: u64, length: u64, way: FallocateFlags) -> io::Result<()> {
    let _alone = target.alone();
    retry(|| rustix::fs::fallocate(target.file(), way, offset, length))
}

fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV | libc::EPERM))
}
