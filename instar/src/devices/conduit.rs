//! A pipe through which pages of one file's cache go to the disk under another, without being copied on the way.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::backend::retry;

/// How much is on the way at once, in bytes: what keeps a disk busy, and the most that a pipe holds where nobody says otherwise.
const ROOM_BYTES: usize = 1 << 20;
/// What a pipe holds a certain number of.
const PAGE_BYTES: usize = 4096;

/// Holds whole pages only, so that what it has room for is known.
#[derive(Debug)]
pub(super) struct Conduit {
    reader: OwnedFd,
    writer: OwnedFd,
    room_bytes: usize,
    held_bytes: usize,
}

impl Conduit {
    /// An empty one, which never waits; `None` where the system has none to give.
    pub(super) fn new() -> Option<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let room_bytes = fcntl_setpipe_size(&writer, ROOM_BYTES).unwrap_or(0);
        (room_bytes >= ROOM_BYTES).then_some(Self { reader, writer, room_bytes: ROOM_BYTES, held_bytes: 0 })
    }

    /// How many bytes it holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many more it has room for.
    pub(super) fn room_bytes(&self) -> usize {
        self.room_bytes - self.held_bytes
    }

    /// Takes whole pages of a file, of which there is room for as many; returns how many bytes it took, fewer only where the file
    /// ends.
    pub(super) fn take(&mut self, file: &File, offset: u64, count: usize) -> io::Result<usize> {
        let mut at = offset;
        let mut rest = count.min(self.room_bytes());
        while rest > 0 {
            let taken = retry(|| splice(file, Some(&mut at), &self.writer, None, rest, SpliceFlags::empty()))?;
            if taken == 0 {
                break;
            }
            self.held_bytes += taken;
            rest -= taken;
            if !taken.is_multiple_of(PAGE_BYTES) {
                break;
            }
        }
        Ok(usize::try_from(at - offset).unwrap_or(count))
    }

    /// Gives all that it holds to a file. `offset` is moved on with what was given, also where not all could be.
    pub(super) fn give(&mut self, file: &File, offset: &mut u64) -> io::Result<()> {
        while self.held_bytes > 0 {
            let held = self.held_bytes;
            match retry(|| splice(&self.reader, None, file, Some(&mut *offset), held, SpliceFlags::empty()))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                given => self.held_bytes -= given.min(held),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("writes");
        file
    }

    #[test]
    fn pages_arrive_in_order() {
        let bytes: Vec<u8> = (0..=250).flat_map(|byte| [byte; 7]).cycle().take(3 * ROOM_BYTES).collect();
        let (source, mut target) = (file(&bytes), file(b""));
        let mut conduit = Conduit::new().expect("a pipe");
        for (offset, count) in [(2 * PAGE_BYTES, PAGE_BYTES), (ROOM_BYTES, 3 * PAGE_BYTES)] {
            assert_eq!(conduit.take(&source, offset as u64, count).expect("takes"), count);
        }
        assert_eq!((conduit.held_bytes(), conduit.room_bytes()), (4 * PAGE_BYTES, ROOM_BYTES - 4 * PAGE_BYTES));
        // There is not room for more.
        assert_eq!(conduit.take(&source, 0, ROOM_BYTES).expect("takes"), ROOM_BYTES - 4 * PAGE_BYTES);
        let mut end = 0;
        conduit.give(&target, &mut end).expect("gives");
        assert_eq!(end, (ROOM_BYTES) as u64);
        let mut given = Vec::new();
        target.rewind().expect("rewinds");
        target.read_to_end(&mut given).expect("reads");
        let parts = [
            &bytes[2 * PAGE_BYTES..][..PAGE_BYTES],
            &bytes[ROOM_BYTES..][..3 * PAGE_BYTES],
            &bytes[..ROOM_BYTES - 4 * PAGE_BYTES],
        ];
        assert!(given == parts.concat());
        assert_eq!(conduit.held_bytes(), 0);
    }

    #[test]
    fn the_end_of_a_file_is_told_and_what_cannot_be_given_is_kept() {
        let source = file(&[7; PAGE_BYTES + 100]);
        let mut conduit = Conduit::new().expect("a pipe");
        assert_eq!(conduit.take(&source, 0, 4 * PAGE_BYTES).expect("takes"), PAGE_BYTES + 100);
        assert_eq!(conduit.take(&source, 1 << 20, PAGE_BYTES).expect("takes"), 0);
        let read_only = File::open("/proc/self/exe").expect("opens");
        let mut end = 0;
        assert!(conduit.give(&read_only, &mut end).is_err());
        assert_eq!(end, 0);
        assert_eq!(conduit.held_bytes(), PAGE_BYTES + 100);
    }
}
