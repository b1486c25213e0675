//! Reads and writes past the system's page cache: with aligned buffers, at aligned offsets, in aligned lengths.
//!
//! What is not aligned is read, changed and written back as a whole block. The block at the end of a file cannot be written as
//! a whole without making the file longer; that one goes through the page cache, and the next flush makes it durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// Alignment in memory and in files: the largest that a disk's logical block asks for.
pub(super) const ALIGN_BYTES: usize = 4096;
const ALIGN: u64 = ALIGN_BYTES as u64;
/// Length of the buffer between.
const BOUNCE_BYTES: usize = 256 << 10;

/// One file, open twice.
#[derive(Debug)]
pub(super) struct DirectFile<'a> {
    direct: &'a File,
    buffered: &'a File,
    /// Held alone by whoever changes a part of a block, so that nobody else changes another part of it meanwhile.
    parts: RwLock<()>,
}

impl<'a> DirectFile<'a> {
    pub(super) fn new(direct: &'a File, buffered: &'a File) -> Self {
        Self { direct, buffered, parts: RwLock::new(()) }
    }

    /// Keeps everybody else from changing blocks, for changes that the system makes by itself.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.parts.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the buffer is full or the file ends; returns how many bytes were read.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if is_aligned(buffer, offset) {
            return self.read_blocks(buffer, offset);
        }
        let mut bounce = Bounce::for_range(offset, buffer.len());
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let skip = usize::try_from(at % ALIGN).unwrap_or(0);
            let wanted = (skip + buffer.len() - done).next_multiple_of(ALIGN_BYTES).min(bounce.len());
            let block = &mut bounce.get()[..wanted];
            let there = self.read_blocks(block, at - skip as u64)?.saturating_sub(skip);
            let count = there.min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&block[skip..skip + count]);
            done += count;
            if skip + there < wanted {
                break;
            }
        }
        Ok(done)
    }

    /// Writes all bytes. `length` is how long the file is at least.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64, length: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let (head_end, tail_start) = (offset.next_multiple_of(ALIGN).min(end), end - end % ALIGN);
        let place = |at: u64| usize::try_from(at - offset).unwrap_or(bytes.len());
        if offset < head_end {
            self.write_part(&bytes[..place(head_end)], offset, length)?;
        }
        if head_end < tail_start {
            let _together = self.parts.read().unwrap_or_else(PoisonError::into_inner);
            self.write_blocks(&bytes[place(head_end)..place(tail_start)], head_end)?;
        }
        if tail_start >= head_end && tail_start < end {
            self.write_part(&bytes[place(tail_start)..], tail_start, length)?;
        }
        Ok(())
    }

    /// Changes a part of one block.
    fn write_part(&self, bytes: &[u8], offset: u64, length: u64) -> io::Result<()> {
        let start = offset - offset % ALIGN;
        let _alone = self.alone();
        if start + ALIGN <= length {
            let mut bounce = Bounce::new(ALIGN_BYTES);
            let block = bounce.get();
            if self.read_blocks(block, start)? == ALIGN_BYTES {
                let skip = usize::try_from(offset - start).unwrap_or(0);
                block[skip..skip + bytes.len()].copy_from_slice(bytes);
                return self.direct.write_all_at(block, start);
            }
        }
        self.buffered.write_all_at(bytes, offset)
    }

    /// Writes whole blocks from anywhere in memory.
    fn write_blocks(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if is_aligned(bytes, offset) {
            return self.direct.write_all_at(bytes, offset);
        }
        let mut bounce = Bounce::new(bytes.len().min(BOUNCE_BYTES));
        for (index, piece) in bytes.chunks(BOUNCE_BYTES).enumerate() {
            let block = &mut bounce.get()[..piece.len()];
            block.copy_from_slice(piece);
            self.direct.write_all_at(block, offset + (index * BOUNCE_BYTES) as u64)?;
        }
        Ok(())
    }

    /// Reads whole blocks to an aligned place; a count that is not one of whole blocks means the end of the file.
    fn read_blocks(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.direct.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(count) => {
                    done += count;
                    if count == 0 || !count.is_multiple_of(ALIGN_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGN_BYTES)
        && bytes.len().is_multiple_of(ALIGN_BYTES)
        && offset.is_multiple_of(ALIGN)
}

/// Memory whose start is aligned.
#[derive(Debug, Default)]
pub(super) struct Bounce {
    memory: Vec<u8>,
    length: usize,
}

impl Bounce {
    /// Room for `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        Self { memory: vec![0; length + ALIGN_BYTES], length }
    }

    /// Room for the blocks that a range touches, or for a part of them.
    fn for_range(offset: u64, length: usize) -> Self {
        let skip = usize::try_from(offset % ALIGN).unwrap_or(0);
        Self::new((skip + length.min(BOUNCE_BYTES)).next_multiple_of(ALIGN_BYTES).min(BOUNCE_BYTES))
    }

    /// Makes sure that there is room for exactly `length` bytes.
    pub(super) fn make(&mut self, length: usize) {
        if self.length != length {
            *self = Self::new(length);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn get(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().addr();
        let skip = start.next_multiple_of(ALIGN_BYTES) - start;
        &mut self.memory[skip..skip + self.length]
    }
}
