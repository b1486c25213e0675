//! Positioned file I/O straight from and to guest memory, which the guest could be changing at any time and which is
//! therefore never seen as a Rust slice.
#![expect(unsafe_code, reason = "system calls that take addresses of guest memory, or that nobody has wrapped")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

/// Reads from `offset` until `target` is full or the file ends; returns how many bytes were read.
///
/// # Errors
/// The system's; what was read before it is not undone.
pub fn read_at(file: &File, target: &VolatileSlice<'_>, offset: u64) -> io::Result<usize> {
    let guard = target.ptr_guard_mut();
    transfer(target.len(), offset, |done, offset| {
        let rest = target.len() - done;
        // SAFETY: `done` is at most the slice's length, so the result points into it or right behind it.
        let place = unsafe { guard.as_ptr().add(done) };
        // SAFETY: `place` and `rest` describe a part of the slice, which the guard keeps mapped; it is memory that other
        // parties may change, and the kernel does not mind.
        unsafe { libc::pread64(file.as_raw_fd(), place.cast(), rest, offset) }
    })
}

/// Writes all of `source` at `offset`; returns how many bytes were written, which is fewer only if the system says 0.
///
/// # Errors
/// The system's; what was written before it is not undone.
pub fn write_at(file: &File, source: &VolatileSlice<'_>, offset: u64) -> io::Result<usize> {
    let guard = source.ptr_guard();
    transfer(source.len(), offset, |done, offset| {
        let rest = source.len() - done;
        // SAFETY: `done` is at most the slice's length, so the result points into it or right behind it.
        let place = unsafe { guard.as_ptr().add(done) };
        // SAFETY: `place` and `rest` describe a part of the slice, which the guard keeps mapped; it is only read, and the
        // kernel does not mind if it changes meanwhile.
        unsafe { libc::pwrite64(file.as_raw_fd(), place.cast(), rest, offset) }
    })
}

/// Starts writing a range of a file to the disk without waiting for it. Only a hint: nothing follows from it.
pub fn start_writeback(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: passes numbers only; it changes neither the file nor any memory.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

fn transfer(length: usize, offset: u64, mut step: impl FnMut(usize, i64) -> isize) -> io::Result<usize> {
    let mut done = 0;
    while done < length {
        let position = offset
            .checked_add(done as u64)
            .and_then(|position| i64::try_from(position).ok())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        match usize::try_from(step(done, position)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(done)
}
