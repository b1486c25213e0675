//! Reads many blocks of a file at once and past the page cache, through a ring of requests to the system (io_uring) that can do
//! nothing but read open files to its own memory. It knows no file beforehand: what a ring knows stays open for a while after the
//! process has ended, and so does the file system that it lies on.
#![expect(unsafe_code, reason = "the system writes to memory while a request is on its way")]

use std::fmt::{self, Debug, Formatter};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use super::direct::{ALIGN_BYTES, Bounce};

/// How many blocks a ring can read at once.
pub(super) const BLOCKS: usize = 128;
/// Length of a block, and what its offset is a multiple of.
pub(super) const BLOCK_BYTES: usize = ALIGN_BYTES;

/// As many as threads that compare; each has one ring for each side that is a file.
const WORKERS: usize = 2;
const SIDES: usize = 2;

/// The rings of a run.
#[derive(Debug)]
pub(crate) struct Rings(Mutex<Vec<Ring>>);

impl Rings {
    /// Makes what is needed for reading so many files; later, in a jail, nothing can be made any more. Where the system has no rings to
    /// give there are none.
    pub(crate) fn new(files: usize) -> Self {
        let count = WORKERS * files.min(SIDES);
        Self(Mutex::new((0..count).map_while(|_| Ring::new().ok()).collect()))
    }

    /// Lends a ring, if there is one left.
    pub(super) fn lend(self: &Arc<Self>) -> Option<Lent> {
        let ring = self.lock().pop()?;
        Some(Lent { ring: Some(ring), home: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ring that goes back to where it came from.
#[derive(Debug)]
pub(super) struct Lent {
    /// `None` once it has failed.
    ring: Option<Ring>,
    home: Arc<Rings>,
}

impl Lent {
    /// Reads the blocks at the first [`BLOCKS`] of `offsets` of a file that was opened with `O_DIRECT`.
    pub(super) fn read(&mut self, file: &File, offsets: &[u64]) {
        if let Some(Err(_)) = self.ring.as_mut().map(|ring| ring.read(file, offsets)) {
            // Requests may still be on their way, so that their memory must stay.
            self.ring.take().into_iter().for_each(Ring::abandon);
        }
    }

    /// Whether the block at the offset with this index, of those that were read last, came whole; why it may not have is not known.
    pub(super) fn has(&self, index: usize) -> bool {
        self.ring.as_ref().and_then(|ring| ring.is_whole.get(index)).copied().unwrap_or(false)
    }

    /// That block, if it came whole.
    pub(super) fn block(&mut self, index: usize) -> Option<&[u8]> {
        let ring = self.ring.as_mut()?;
        ring.is_whole.get(index).filter(|is_whole| **is_whole)?;
        ring.memory.get().chunks_exact(BLOCK_BYTES).nth(index)
    }
}

#[cfg(test)]
impl Lent {
    /// The ring itself, for requests that nobody makes.
    pub(super) fn requests(&mut self) -> Option<&mut IoUring> {
        self.ring.as_mut().map(|ring| &mut ring.requests)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.lock().extend(self.ring.take());
    }
}

/// A ring without any request on its way.
struct Ring {
    requests: IoUring,
    memory: Bounce,
    /// Which blocks of the memory were read.
    is_whole: Vec<bool>,
}

impl Debug for Ring {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let requests = IoUring::builder().setup_r_disabled().build(u32::try_from(BLOCKS).unwrap_or(u32::MAX))?;
        let mut memory = Bounce::new(BLOCKS * BLOCK_BYTES);
        let part = libc::iovec { iov_base: memory.get().as_mut_ptr().cast(), iov_len: memory.len() };
        let submitter = requests.submitter();
        // SAFETY: the memory stays where it is as long as the ring may write to it, see `read` and `abandon`.
        unsafe { submitter.register_buffers(&[part])? };
        submitter.register_restrictions(&mut [Restriction::sqe_op(opcode::ReadFixed::CODE)])?;
        submitter.register_enable_rings()?;
        Ok(Self { requests, memory, is_whole: Vec::new() })
    }

    /// Reads blocks and waits until all are there. After an error some may be on their way for ever.
    fn read(&mut self, file: &File, offsets: &[u64]) -> io::Result<()> {
        let offsets = &offsets[..offsets.len().min(BLOCKS)];
        self.is_whole.clear();
        self.is_whole.resize(offsets.len(), false);
        for ((block, offset), index) in self.memory.get().chunks_exact_mut(BLOCK_BYTES).zip(offsets).zip(0..) {
            let length = u32::try_from(block.len()).unwrap_or(0);
            let file = types::Fd(file.as_raw_fd());
            let request = opcode::ReadFixed::new(file, block.as_mut_ptr(), length, 0).offset(*offset);
            // SAFETY: nobody else looks at the memory before all requests are done, and after an error it is never freed.
            let pushed = unsafe { self.requests.submission().push(&request.build().user_data(index)) };
            pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        }
        let mut rest = offsets.len();
        while rest > 0 {
            match self.requests.submit_and_wait(rest) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result.map(drop)?,
            }
            for done in self.requests.completion() {
                rest = rest.saturating_sub(1);
                let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
                if let Some(is_whole) = self.is_whole.get_mut(index) {
                    *is_whole = usize::try_from(done.result()).is_ok_and(|count| count == BLOCK_BYTES);
                }
            }
        }
        Ok(())
    }

    /// Leaves the memory to requests that never ended.
    fn abandon(self) {
        mem::forget(self.memory);
    }
}
