//! Copies bytes between files without looking at them.
//!
//! On file systems that share blocks or copy on a server the kernel is asked to copy. Everywhere else long runs are written past
//! the page cache, which spares the target's pages and the writing back of them; whole pages of the source go there as they are.
//! For all the rest a plain loop with a buffer is faster than `copy_file_range`. The numbers stand in docs/performance.md.

use std::io;
use std::num::NonZeroU64;

use rustix::fs::Advice;

use super::backend::{Backend, end_of, retry};
use super::bulk::Bulk;
use super::conduit::Conduit;
use super::direct::{ALIGN_BYTES, Bounce};
use super::pace::Pace;
use super::runs::{Part, Run};
use crate::vm::volatile_io;

/// Size of a worker's buffer in bytes: what stays in the processor's cache.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// Size of the buffer for what is written past the page cache: what keeps a disk busy.
const BULK_BUFFER_BYTES: usize = 1 << 20;
const ALIGN: u64 = ALIGN_BYTES as u64;

/// From this length on, a run is written past the page cache; or, where that cannot be, writing it to the disk starts at once,
/// so that the flush at the end finds little left to do.
const MIN_BULK_BYTES: u64 = 1 << 20;

/// Shorter pieces are not worth sharing blocks for: it only scatters the file.
const MIN_KERNEL_BYTES: u64 = 64 << 10;

/// How much a worker has the kernel copy in any case before it makes a buffer, which takes longer.
const BUFFER_FROM_BYTES: u64 = 1 << 20;

/// The most that the kernel is asked to copy at once.
const MAX_KERNEL_BYTES: u64 = 1 << 30;

/// What a worker needs for copying: a buffer, made when it is first needed, and what is in it; or for whole pages that are written
/// past the page cache something that takes them as they are. Only one of both holds something.
#[derive(Debug, Default)]
pub(super) struct Copier {
    buffer: Bounce,
    conduit: Option<Conduit>,
    gathered: Gathered,
    kernel_copied_bytes: u64,
    /// The kernel has refused to copy between these files; it would again.
    kernel_refuses: bool,
}

/// What has been read and not yet been written.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    /// Where it goes.
    target_offset: u64,
    /// How much of it is in the buffer.
    count: usize,
    /// Whether it may be written past the page cache.
    bulk: bool,
    /// Up to where the target's space has yet to be reserved, if it has.
    unreserved_end: Option<u64>,
}

/// A copy that failed: which record of the list, and why.
pub(super) type Failed = (usize, io::Error);

impl Copier {
    /// Copies a run to device `own`. What lies beyond the end of a source reads as zeros.
    ///
    /// # Errors
    /// The system's; `EINVAL` for ranges that overlap in one file; `EACCES` for a target that is read-only; `ENODEV` for a
    /// device that is not there.
    pub(super) fn copy(
        &mut self,
        backends: &[Backend<'_>],
        own: usize,
        run: &Run<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Failed> {
        let device = |number: usize| backends.get(number).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV));
        let of_run = |error| (run.first, error);
        let target = device(own).map_err(of_run)?;
        let Some(first) = run.parts().next() else { return Ok(()) };
        let end = target.check_write(first.target_offset, run.length).map_err(of_run)?;
        if let Some(rehearsal) = target.rehearsal() {
            for part in run.parts() {
                let number = usize::try_from(part.source_device).unwrap_or(usize::MAX);
                let noted = device(number).and_then(|source| {
                    check_apart(target, source, &part)?;
                    rehearsal.copy(source, &part)
                });
                noted.map_err(|error| (part.record, error))?;
            }
            if run.length > 0 {
                target.grown_to(end);
            }
            return Ok(());
        }
        let is_long = run.length >= MIN_BULK_BYTES;
        let bulk = target.bulk_at(first.target_offset).filter(|_| is_long && !pace.is_limited());
        let unreserved_end = bulk.map(|_| end);
        self.gathered = Gathered { target_offset: first.target_offset, count: 0, bulk: bulk.is_some(), unreserved_end };
        self.conduit = bulk.and_then(Bulk::lend);
        for part in run.parts() {
            let number = usize::try_from(part.source_device).unwrap_or(usize::MAX);
            pace.counts = number < own;
            device(number)
                .and_then(|source| self.part(target, source, &part, pace))
                .map_err(|error| (part.record, error))?;
        }
        self.write_out(target).map_err(of_run)?;
        if let Some((bulk, conduit)) = bulk.zip(self.conduit.take()) {
            bulk.take_back(conduit);
        }
        if is_long {
            run.parts().for_each(|part| give_up_pages(backends, target, &part));
        }
        if is_long && bulk.is_none() && target.writes_back_early() {
            volatile_io::start_writeback(target.file(), first.target_offset, run.length);
        }
        Ok(())
    }

    fn part(&mut self, target: &Backend<'_>, source: &Backend<'_>, part: &Part, pace: &mut Pace<'_>) -> io::Result<()> {
        let source_end = end_of(part.source_offset, part.length)?;
        check_apart(target, source, part)?;
        let there = source_end.min(source.length_bytes()).saturating_sub(part.source_offset);
        let mut done = 0;
        if there >= MIN_KERNEL_BYTES && self.kernel_is_asked(target, source, there) {
            self.write_out(target)?;
            done = self.copy_in_kernel(target, source, part, there, pace)?;
            self.gathered.target_offset += done;
        }
        if source.lends_pages() {
            done += self.pass_pages(target, source, part.source_offset + done, there - done, pace)?;
        }
        while done < there {
            if self.gathered.count == 0 {
                self.write_out(target)?;
                self.buffer.make(if self.gathered.bulk { BULK_BUFFER_BYTES } else { BUFFER_BYTES });
            }
            let count = pace.piece_bytes(self.room() as u64).min(there - done);
            pace.wait_for(count);
            self.gather(source, part.source_offset + done, usize::try_from(count).unwrap_or(0))?;
            if self.room() == 0 {
                self.write_out(target)?;
            }
            pace.note_copied(count);
            done += count;
        }
        if there < part.length {
            self.write_out(target)?;
            super::zero::write_zeroes(target, part.target_offset + there, part.length - there, true)?;
            self.gathered.target_offset += part.length - there;
        }
        Ok(())
    }

    /// Whether the kernel is to copy so many bytes.
    fn kernel_is_asked(&self, target: &Backend<'_>, source: &Backend<'_>, length: u64) -> bool {
        let is_better = target.kernel_copies() && source.kernel_copies();
        let is_short = self.kernel_copied_bytes.saturating_add(length) <= BUFFER_FROM_BYTES && self.buffer.len() == 0;
        let has_other_way = self.conduit.is_some() || !target.lends_pages() || !source.lends_pages();
        !self.kernel_refuses && (is_better || is_short && !has_other_way)
    }

    /// Passes whole pages on as they are, from as far as both sides are aligned; returns how many bytes that was.
    fn pass_pages(
        &mut self,
        target: &Backend<'_>,
        source: &Backend<'_>,
        offset: u64,
        length: u64,
        pace: &mut Pace<'_>,
    ) -> io::Result<u64> {
        let target_offset = self.gathered.target_offset + self.gathered.count as u64;
        let whole = length - length % ALIGN;
        if self.conduit.is_none() || whole == 0 || !(target_offset | offset).is_multiple_of(ALIGN) {
            return Ok(0);
        }
        if self.gathered.count > 0 {
            self.write_out(target)?;
        }
        let mut done = 0;
        while done < whole {
            let Some(conduit) = &mut self.conduit else { break };
            let count = usize::try_from(whole - done).unwrap_or(usize::MAX).min(conduit.room_bytes());
            if conduit.take(source.file(), offset + done, count)? != count {
                // The file is not shorter than its length says, unless somebody else has cut it.
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            if conduit.room_bytes() == 0 {
                self.write_out(target)?;
            }
            pace.note_copied(count as u64);
            done += count as u64;
        }
        Ok(done)
    }

    /// How much more is gathered before it is written. What starts within a block is written alone up to that block's end, so
    /// that all that follows is aligned.
    fn room(&self) -> usize {
        let skip = usize::try_from(self.gathered.target_offset % ALIGN).unwrap_or(0);
        let most = if skip == 0 { self.buffer.len() } else { ALIGN_BYTES - skip };
        most - self.gathered.count
    }

    fn gather(&mut self, source: &Backend<'_>, offset: u64, count: usize) -> io::Result<()> {
        let filled = self.gathered.count;
        source.read_exact(&mut self.buffer.get()[filled..filled + count], offset)?;
        self.gathered.count += count;
        Ok(())
    }

    /// Writes what has been gathered.
    fn write_out(&mut self, target: &Backend<'_>) -> io::Result<()> {
        let Gathered { target_offset, count, .. } = self.gathered;
        let written = match &mut self.conduit {
            Some(conduit) if conduit.held_bytes() > 0 => {
                let held = conduit.held_bytes();
                let bulk = self.gathered.bulk_for(target, held);
                let mut at = target_offset;
                if !bulk.map_or(Ok(false), |bulk| bulk.write_held(conduit, &mut at))? {
                    target.write_held(conduit, at)?;
                }
                held
            }
            _ if count > 0 => {
                let bytes = &self.buffer.get()[..count];
                let whole_blocks = if target_offset.is_multiple_of(ALIGN) { count - count % ALIGN_BYTES } else { 0 };
                let bulk = self.gathered.bulk_for(target, whole_blocks);
                let is_written = bulk.map_or(Ok(false), |bulk| bulk.write(&bytes[..whole_blocks], target_offset))?;
                let done = if is_written { whole_blocks } else { 0 };
                if done < count {
                    target.write_all(&bytes[done..], target_offset + done as u64)?;
                }
                count
            }
            _ => return Ok(()),
        };
        self.gathered.target_offset += written as u64;
        self.gathered.count = 0;
        target.grown_to(self.gathered.target_offset);
        Ok(())
    }

    /// Copies as much as the kernel is willing to; returns how much that was.
    fn copy_in_kernel(
        &mut self,
        target: &Backend<'_>,
        source: &Backend<'_>,
        part: &Part,
        length: u64,
        pace: &mut Pace<'_>,
    ) -> io::Result<u64> {
        let mut done = 0;
        while done < length {
            let mut from = part.source_offset + done;
            let mut to = part.target_offset + done;
            let wanted = pace.piece_bytes(MAX_KERNEL_BYTES).min(length - done);
            let count = usize::try_from(wanted).unwrap_or(usize::MAX);
            pace.wait_for(wanted);
            let result = retry(|| {
                rustix::fs::copy_file_range(source.file(), Some(&mut from), target.file(), Some(&mut to), count)
            });
            match result {
                Ok(0) => break,
                Ok(count) => {
                    pace.note_copied(count as u64);
                    done += count as u64;
                }
                Err(error) if unsupported(&error) => {
                    self.kernel_refuses = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.kernel_copied_bytes += done;
        target.grown_to(part.target_offset + done);
        Ok(done)
    }
}

impl Gathered {
    /// The way past the page cache for so many bytes, with space for them and all that follows.
    fn bulk_for<'t, 'a>(&mut self, target: &'t Backend<'a>, whole_blocks: usize) -> Option<&'t Bulk<'a>> {
        let bulk = target.bulk_at(self.target_offset).filter(|_| self.bulk && whole_blocks > 0)?;
        if let Some(end) = self.unreserved_end.take() {
            target.reserve(self.target_offset, end);
        }
        Some(bulk)
    }
}

/// Drops what was copied from the page cache if the job may write there: it is going to give that up, which takes no time without
/// these pages, and here all workers drop them side by side while the disk is at work. Advice that is not taken costs nothing.
fn give_up_pages(backends: &[Backend<'_>], target: &Backend<'_>, part: &Part) {
    let source = usize::try_from(part.source_device).ok().and_then(|number| backends.get(number));
    if let Some(source) = source.filter(|source| source.writable() && !target.same_file(source))
        && part.length >= MIN_BULK_BYTES
    {
        let length = NonZeroU64::new(part.length);
        let _ = rustix::fs::fadvise(source.file(), part.source_offset, length, Advice::DontNeed);
    }
}

/// Refuses to copy a range of a file onto itself.
fn check_apart(target: &Backend<'_>, source: &Backend<'_>, part: &Part) -> io::Result<()> {
    if std::ptr::eq(target, source) && part.target_offset.abs_diff(part.source_offset) < part.length {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Whether an error of `copy_file_range` means that it cannot be used here, rather than that copying failed.
fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM | libc::EBADF | libc::ETXTBSY)
    )
}
