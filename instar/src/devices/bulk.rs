//! The way past the page cache for long runs: the same file, opened with `O_DIRECT`. Where the system refuses it all goes the other
//! way from then on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vm_memory::VolatileSlice;

use super::conduit::Conduit;
use super::direct::ALIGN_BYTES;
use crate::vm::volatile_io;

/// As many as threads that copy.
const CONDUITS: usize = 2;

/// A file that is written past the page cache.
#[derive(Debug)]
pub(super) struct Bulk<'a> {
    file: &'a File,
    is_refused: AtomicBool,
    conduits: Mutex<Vec<Conduit>>,
}

impl<'a> Bulk<'a> {
    /// Takes the file, and makes what is needed to fill it; later, in a jail, nothing can be made any more.
    pub(super) fn new(file: &'a File) -> Self {
        let conduits = (0..CONDUITS).map_while(|_| Conduit::new()).collect();
        Self { file, is_refused: AtomicBool::new(false), conduits: Mutex::new(conduits) }
    }

    /// Whether the system has refused to write in this way.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Lends an empty conduit, if there is one left.
    pub(super) fn lend(&self) -> Option<Conduit> {
        self.conduits.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes a conduit back. One that still holds something is of no use any more.
    pub(super) fn take_back(&self, conduit: Conduit) {
        if conduit.held_bytes() == 0 {
            self.conduits.lock().unwrap_or_else(PoisonError::into_inner).push(conduit);
        }
    }

    /// Writes aligned bytes; tells whether the system was willing to.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        self.unless_refused(|| self.file.write_all_at(bytes, offset))
    }

    /// Whether memory can be written as it is to a place of the file.
    pub(super) fn is_aligned(offset: u64, source: &VolatileSlice<'_>) -> bool {
        let start = source.ptr_guard().as_ptr().addr();
        (start | source.len()).is_multiple_of(ALIGN_BYTES) && offset.is_multiple_of(ALIGN_BYTES as u64)
    }

    /// Writes guest memory, which is aligned; tells whether the system was willing to.
    pub(super) fn write_memory(&self, source: &VolatileSlice<'_>, offset: u64) -> io::Result<bool> {
        self.unless_refused(|| match volatile_io::write_at(self.file, source, offset)? {
            count if count == source.len() => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        })
    }

    /// Writes what a conduit holds, which is aligned; tells whether the system was willing to write all of it. `offset` is moved on
    /// with what was written.
    pub(super) fn write_held(&self, conduit: &mut Conduit, offset: &mut u64) -> io::Result<bool> {
        self.unless_refused(|| conduit.give(self.file, offset))
    }

    /// A disk with larger blocks, or a file system that only pretends, refuses.
    fn unless_refused(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        if self.is_refused() {
            return Ok(false);
        }
        match write() {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                self.is_refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
