//! A rehearsal: a job runs as always, but one of its files is not written. What the guest program writes goes to a scratch
//! file instead, at the same offsets, and is read again from there; of what is copied, only the places are noted; zeros,
//! space that is given back and changes of length are only noted as well. At the end it is known what the file would have become.

mod copy;
mod effects;
mod pieces;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use effects::{Effects, data_bytes, obstacle};
use vm_memory::VolatileSlice;

use pieces::{Content, Found, Origin, Pieces, TooMany};

/// How much is read or moved at once.
const BUFFER_BYTES: usize = 256 << 10;

/// One file's part in a rehearsal.
#[derive(Debug)]
pub(super) struct Rehearsal<'a> {
    file: &'a File,
    scratch: &'a File,
    /// The files of all devices as they are, by number.
    all: Arc<[&'a File]>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pieces: Pieces,
    /// From here on nothing of what the file holds can be seen any more: it was shorter for a while.
    visible_end: u64,
    /// One of [`obstacle`], and an error number.
    obstacle: (u64, u64),
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(file: &'a File, scratch: &'a File, all: Arc<[&'a File]>, length_bytes: u64) -> Self {
        let state = State { pieces: Pieces::default(), visible_end: length_bytes, obstacle: (obstacle::NONE, 0) };
        Self { file, scratch, all, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills a buffer as if everything had been done, with zeros where there is nothing.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let end = offset.saturating_add(buffer.len() as u64);
        for (range, content) in state.pieces.within(offset, end) {
            let part = &mut buffer[to_index(range.start - offset)..to_index(range.end - offset)];
            match content {
                None => {
                    let seen = to_index(range.end.min(state.visible_end).saturating_sub(range.start));
                    part[seen..].fill(0);
                    read_whole(self.file, &mut part[..seen], range.start)?;
                }
                Some(Content::Written | Content::Copied(Origin::Scratch)) => {
                    let read = read_whole(self.scratch, part, range.start);
                    read.map_err(|error| state.give_up(obstacle::SCRATCH, &error))?;
                }
                Some(Content::Copied(Origin::File { device, offset })) => {
                    let source = usize::try_from(device).ok().and_then(|device| self.all.get(device));
                    read_whole(source.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?, part, offset)?;
                }
                Some(Content::Copied(Origin::Unknown)) => return Err(state.too_much()),
                Some(Content::Copied(Origin::Zeros) | Content::Zeroed { .. } | Content::Released) => part.fill(0),
            }
        }
        Ok(())
    }

    /// As [`Rehearsal::read`], into guest memory.
    pub(super) fn fill(&self, offset: u64, target: &VolatileSlice<'_>) -> io::Result<()> {
        let mut buffer = vec![0; target.len().min(BUFFER_BYTES)];
        let mut done = 0;
        while done < target.len() {
            let rest = target.offset(done).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
            let piece = &mut buffer[..rest.len().min(BUFFER_BYTES)];
            self.read(piece, offset.saturating_add(done as u64))?;
            rest.copy_from(piece);
            done += piece.len();
        }
        Ok(())
    }

    /// Takes bytes in the file's place.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.keep(bytes, offset, Content::Written)
    }

    /// Keeps bytes in the scratch file and notes how they came there.
    fn keep(&self, bytes: &[u8], offset: u64, content: Content) -> io::Result<()> {
        let mut state = self.state();
        let written = self.scratch.write_all_at(bytes, offset);
        written.map_err(|error| state.give_up(obstacle::SCRATCH, &error))?;
        state.put(offset, offset.saturating_add(bytes.len() as u64), content)
    }

    /// Notes that a range reads as zeros from now on. `stored` says whether it keeps its place on the disk; what lies behind
    /// the file's end has none.
    pub(super) fn zero(&self, start: u64, end: u64, stored: bool) -> io::Result<()> {
        self.state().put(start, end, Content::Zeroed { stored })
    }

    /// Notes that the space of a range is given back.
    pub(super) fn release(&self, start: u64, end: u64) -> io::Result<()> {
        self.state().put(start, end, Content::Released)
    }

    /// Notes that the file is only this long now.
    pub(super) fn cut(&self, length_bytes: u64) {
        let mut state = self.state();
        state.pieces.carve(length_bytes, u64::MAX);
        state.visible_end = state.visible_end.min(length_bytes);
    }

    /// What would have become of the file.
    pub(super) fn effects(&self, length_before: u64, length_after: u64) -> Effects {
        let state = self.state();
        let (obstacle, obstacle_errno) = state.obstacle;
        let mut effects = Effects { length_after, obstacle, obstacle_errno, ..Effects::none(length_before) };
        effects.count(&state.pieces, self.file);
        effects
    }

    /// What was done to the parts of a range, in order.
    fn within(&self, start: u64, end: u64) -> (Vec<Found>, u64) {
        let state = self.state();
        (state.pieces.within(start, end), state.visible_end)
    }
}

impl State {
    fn put(&mut self, start: u64, end: u64, content: Content) -> io::Result<()> {
        let put = self.pieces.put(start, end, content);
        put.map_err(|TooMany| self.too_much())
    }

    fn too_much(&mut self) -> io::Error {
        self.give_up(obstacle::TOO_MUCH, &io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Notes the first obstacle; the guest program is told something, but its report is of no use any more.
    fn give_up(&mut self, what: u64, error: &io::Error) -> io::Error {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if self.obstacle.0 == obstacle::NONE {
            self.obstacle = (what, u64::from(errno.unsigned_abs()));
        }
        io::Error::from_raw_os_error(errno)
    }
}

fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    // A file that somebody else has cut meanwhile is an error, as it is where the file itself is read.
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::from_raw_os_error(libc::EIO),
        _ => error,
    })
}

/// A place in a buffer: buffers are no longer than memory.
fn to_index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
