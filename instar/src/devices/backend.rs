//! One file behind a device: its length, and what can be done with it. Counts in bytes and never looks at them.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLockWriteGuard};

use rustix::fs::{Advice, FallocateFlags, FileType, SeekFrom};
use rustix::io::ReadWriteFlags;
use vm_memory::VolatileSlice;

use super::bulk::Bulk;
use super::conduit::Conduit;
use super::direct::{Bounce, DirectFile};
use super::file_system;
use super::holes::{self, Holes};
use super::probes::Probed;
use super::rehearsal::{Effects, Rehearsal};
use super::ring::Rings;
use crate::vm::volatile_io;

/// Length of the buffer between guest memory and a file that is written past the page cache.
const BOUNCE_BYTES: usize = 256 << 10;

/// The longest file that the system can address.
const MAX_LENGTH_BYTES: u64 = i64::MAX as u64;

/// When what was written becomes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flushing {
    /// When the guest asks for it.
    #[default]
    OnRequest,
    /// Before the guest learns that it was written.
    AfterEachBatch,
    /// When the system sees fit.
    Never,
}

/// A file with its length. All operations take `&self` and may run at the same time on ranges that do not overlap.
#[derive(Debug)]
pub struct Backend<'a> {
    file: &'a File,
    direct: Option<DirectFile<'a>>,
    bulk: Option<Bulk<'a>>,
    probed: Option<Probed<'a>>,
    flushing: Flushing,
    rehearsal: Option<Rehearsal<'a>>,
    writable: bool,
    block_device: bool,
    kernel_copies: bool,
    in_memory: bool,
    has_bulk: bool,
    holes: Holes,
    identity: (u64, u64),
    /// Length when it was opened.
    opened_bytes: u64,
    length_bytes: AtomicU64,
}

/// Where something starts in a file.
pub(super) type Place<'a> = (&'a Backend<'a>, u64);

impl<'a> Backend<'a> {
    /// Takes a file of which nobody else changes the length.
    ///
    /// # Errors
    /// The system's, when asked for the file's kind and length; `InvalidInput` for what is neither a regular file nor a
    /// block device.
    pub fn new(file: &'a File, writable: bool) -> io::Result<Self> {
        let status = rustix::fs::fstat(file)?;
        let block_device = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device")),
        };
        // A block device states its length only this way.
        let length_bytes = rustix::fs::seek(file, SeekFrom::End(0))?;
        let identity = if block_device { (status.st_rdev, 0) } else { (status.st_dev, status.st_ino) };
        let kind = if block_device { file_system::Kind::default() } else { file_system::Kind::of(file) };
        Ok(Self {
            file,
            direct: None,
            bulk: None,
            probed: None,
            flushing: Flushing::default(),
            rehearsal: None,
            writable,
            block_device,
            kernel_copies: kind.copies,
            in_memory: kind.is_memory,
            has_bulk: kind.has_bulk,
            holes: Holes::default(),
            identity,
            opened_bytes: length_bytes,
            length_bytes: AtomicU64::new(length_bytes),
        })
    }

    /// Lets what is read and written go past the page cache, through `direct`: the same file, opened with `O_DIRECT`.
    #[must_use]
    pub fn past_the_cache(mut self, direct: Option<&'a File>) -> Self {
        self.direct = direct.map(|direct| DirectFile::new(direct, self.file));
        self.kernel_copies &= self.direct.is_none();
        self
    }

    /// Lets long runs be written past the page cache, through `bulk`: the same file, opened with `O_DIRECT`. Of no use where
    /// all goes through the page cache anyway.
    #[must_use]
    pub fn bulk(mut self, bulk: Option<&'a File>) -> Self {
        self.bulk = bulk.filter(|_| self.has_bulk).map(Bulk::new);
        self
    }

    /// Lets single blocks be read past the page cache through rings: of `probed`, the same file, opened with `O_DIRECT`.
    #[must_use]
    pub(crate) fn probed_through(mut self, probed: Option<&'a File>, rings: &Arc<Rings>) -> Self {
        self.probed = probed.map(|probed| Probed::new(probed, Arc::clone(rings)));
        self
    }

    /// Says when what was written becomes durable.
    #[must_use]
    pub fn flushing(mut self, flushing: Flushing) -> Self {
        self.flushing = flushing;
        self
    }

    /// Leaves the file as it is and only rehearses what is done to it: what is written goes to `scratch`. `all` are the files
    /// of all devices, by number.
    #[must_use]
    pub fn rehearsed_on(mut self, scratch: Option<&'a File>, all: &Arc<[&'a File]>) -> Self {
        self.rehearsal = scratch.map(|scratch| Rehearsal::new(self.file, scratch, Arc::clone(all), self.opened_bytes));
        self
    }

    /// What has been rehearsed so far; nothing, if the file is no part of a rehearsal.
    #[must_use]
    pub fn effects(&self) -> Effects {
        match &self.rehearsal {
            Some(rehearsal) => rehearsal.effects(self.opened_bytes, self.length_bytes()),
            None => Effects::none(self.length_bytes()),
        }
    }

    pub(super) fn rehearsal(&self) -> Option<&Rehearsal<'a>> {
        self.rehearsal.as_ref()
    }

    /// Whether the job may write to it.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Gives the file to another job, which may write to it or not. What the last job has written is then on the disk, and is
    /// read from there by one that may not write: no page of the file stays in the cache where the system can do without.
    ///
    /// # Errors
    /// The system's, if it cannot make everything durable.
    pub fn hand_over(&mut self, writable: bool) -> io::Result<()> {
        if self.writable && !writable {
            self.flush()?;
            // Advice that is not taken costs nothing.
            let _ = rustix::fs::fadvise(self.file, 0, None, Advice::DontNeed);
        }
        self.writable = writable;
        Ok(())
    }

    /// Current length in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes.load(Ordering::Relaxed)
    }

    /// Whether both stand for the same file.
    #[must_use]
    pub fn same_file(&self, other: &Backend<'_>) -> bool {
        self.block_device == other.block_device && self.identity == other.identity
    }

    pub(super) fn file(&self) -> &File {
        self.file
    }

    /// Whether the file is anywhere but in the page cache.
    pub(crate) fn has_disk(&self) -> bool {
        !self.in_memory
    }

    /// Whether writing should begin before it is asked for.
    pub(super) fn writes_back_early(&self) -> bool {
        self.direct.is_none() && self.flushing != Flushing::Never
    }

    /// Whether what a batch has written must be durable when the batch ends.
    pub(super) fn writes_through(&self) -> bool {
        self.flushing == Flushing::AfterEachBatch
    }

    /// Keeps other workers from changing parts of blocks, where they must not while the system does.
    pub(super) fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.direct.as_ref().map(DirectFile::alone)
    }

    /// Fills a buffer; the file must be that long.
    pub(super) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(rehearsal) = &self.rehearsal {
            return rehearsal.read(buffer, offset);
        }
        let result = match &self.direct {
            None => self.file.read_exact_at(buffer, offset),
            Some(direct) => match direct.read_at(buffer, offset) {
                Ok(count) if count < buffer.len() => Err(io::ErrorKind::UnexpectedEof.into()),
                result => result.map(drop),
            },
        };
        // The file is not shorter than its length says, unless somebody else has cut it: then this is an error.
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::from_raw_os_error(libc::EIO),
            _ => error,
        })
    }

    /// Lets the system read ahead what is going to be read, where that takes it out of the page cache. Advice that is not taken
    /// costs nothing.
    pub(super) fn expect(&self, offset: u64, length: u64) {
        if self.lends_pages() && !self.in_memory && offset < self.length_bytes() {
            let _ = rustix::fs::fadvise(self.file, offset, NonZeroU64::new(length), Advice::WillNeed);
        }
    }

    /// The file as rings read it, where that goes past the page cache.
    pub(super) fn probed(&self) -> Option<&Probed<'a>> {
        self.probed.as_ref().filter(|_| self.lends_pages())
    }

    /// Whether the page cache has a byte.
    pub(super) fn is_cached(&self, offset: u64) -> bool {
        let mut byte = [0];
        let read = rustix::io::preadv2(self.file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
        read != Err(rustix::io::Errno::AGAIN)
    }

    /// Where at or after `offset` the next bytes lie that the file system keeps, and where they end: in front of them
    /// everything reads as zeros. `None` if there are none.
    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        if self.rehearsal.is_some() {
            // What has been rehearsed is not in the file.
            Some((offset, u64::MAX))
        } else if self.in_memory {
            holes::next_data_nearby(self.file, offset)
        } else {
            self.holes.next_data(self.file, offset)
        }
    }

    /// Writes all bytes; somebody else notes that the file has grown.
    pub(super) fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(rehearsal) = &self.rehearsal {
            return rehearsal.write(bytes, offset);
        }
        let result = match &self.direct {
            None => self.file.write_all_at(bytes, offset),
            Some(direct) => direct.write_at(bytes, offset, self.length_bytes()),
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::WriteZero => io::Error::from_raw_os_error(libc::ENOSPC),
            _ => error,
        })
    }

    /// The way past the page cache, where a long run at `offset` is better written in that way: behind what the file had when it
    /// was opened, of which nothing can be in the cache, and if somebody waits for the disk.
    pub(super) fn bulk_at(&self, offset: u64) -> Option<&Bulk<'a>> {
        let is_new = offset >= self.opened_bytes && self.flushing != Flushing::Never;
        self.bulk.as_ref().filter(|bulk| is_new && !bulk.is_refused())
    }

    /// Writes what a conduit holds, through the page cache.
    pub(super) fn write_held(&self, conduit: &mut Conduit, mut offset: u64) -> io::Result<()> {
        conduit.give(self.file, &mut offset)
    }

    /// Whether the pages of the file are there to be taken as they are.
    pub(super) fn lends_pages(&self) -> bool {
        self.direct.is_none() && self.rehearsal.is_none() && !self.block_device
    }

    /// Takes space for a range that is about to be written and makes the file long enough, so that several can write at the
    /// same time. Nothing depends on it: where it fails, writing will tell.
    pub(super) fn reserve(&self, offset: u64, end: u64) {
        let start = offset.max(self.length_bytes());
        if start < end && !self.block_device {
            let taken = retry(|| rustix::fs::fallocate(self.file, FallocateFlags::empty(), start, end - start));
            if taken.is_ok() {
                self.grown_to(end);
            }
        }
    }

    /// Whether the file system has a better way to copy than through a buffer.
    pub(super) fn kernel_copies(&self) -> bool {
        self.kernel_copies
    }

    /// Checks that a range may be written and does not leave what the system can address; returns its end.
    pub(super) fn check_write(&self, offset: u64, length: u64) -> io::Result<u64> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let end = end_of(offset, length)?;
        if self.block_device && end > self.length_bytes() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(end)
    }

    /// The file may be longer now.
    pub(super) fn grown_to(&self, end: u64) {
        self.length_bytes.fetch_max(end, Ordering::Relaxed);
    }

    /// Fills guest memory from `offset`; zeros beyond the end.
    pub(super) fn read(&self, offset: u64, target: &VolatileSlice<'_>) -> io::Result<()> {
        end_of(offset, target.len() as u64)?;
        if let Some(rehearsal) = &self.rehearsal {
            return rehearsal.fill(offset, target);
        }
        let count = match &self.direct {
            None => volatile_io::read_at(self.file, target, offset)?,
            Some(direct) => read_direct(direct, target, offset)?,
        };
        zero_slice(target, count)
    }

    /// Writes guest memory to `offset`; the file grows as needed.
    pub(super) fn write(&self, offset: u64, source: &VolatileSlice<'_>) -> io::Result<()> {
        self.check_write(offset, source.len() as u64)?;
        if self.direct.is_some() || self.rehearsal.is_some() {
            return self.write_bounced(source, offset);
        }
        let count = volatile_io::write_at(self.file, source, offset)?;
        self.grown_to(offset.saturating_add(count as u64));
        if count == source.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOSPC)) }
    }

    /// Writes guest memory past the page cache, if that can be done; tells whether it was. Space is taken up to `reserved_end`, where
    /// others are going to write.
    pub(super) fn write_bulk(
        &self,
        offset: u64,
        source: &VolatileSlice<'_>,
        reserved_end: Option<u64>,
    ) -> io::Result<bool> {
        let end = self.check_write(offset, source.len() as u64)?;
        let Some(bulk) = self.bulk_at(offset).filter(|_| Bulk::is_aligned(offset, source)) else { return Ok(false) };
        self.reserve(offset, reserved_end.unwrap_or(end));
        let is_written = bulk.write_memory(source, offset)?;
        if is_written {
            self.grown_to(end);
        }
        Ok(is_written)
    }

    fn write_bounced(&self, source: &VolatileSlice<'_>, offset: u64) -> io::Result<()> {
        let mut bounce = Bounce::new(source.len().min(BOUNCE_BYTES));
        let mut done = 0;
        while done < source.len() {
            let rest = source.offset(done).map_err(|_| fault())?;
            let piece = &mut bounce.get()[..rest.len().min(BOUNCE_BYTES)];
            rest.copy_to(piece);
            self.write_all(piece, offset + done as u64)?;
            done += piece.len();
            self.grown_to(offset + done as u64);
        }
        Ok(())
    }

    /// Sets the length. A block device stays as long as it is, and cannot become longer.
    pub(super) fn resize(&self, length: u64) -> io::Result<()> {
        self.check_write(0, length)?;
        if self.block_device {
            return Ok(());
        }
        match &self.rehearsal {
            Some(rehearsal) => rehearsal.cut(length),
            None => retry(|| rustix::fs::ftruncate(self.file, length))?,
        }
        self.length_bytes.store(length, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything durable, unless that is left to the system.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.writable && self.flushing != Flushing::Never && self.rehearsal.is_none() {
            retry(|| rustix::fs::fdatasync(self.file))
        } else {
            Ok(())
        }
    }
}

/// The end of a range, if the system can address it.
pub(super) fn end_of(offset: u64, length: u64) -> io::Result<u64> {
    offset
        .checked_add(length)
        .filter(|end| *end <= MAX_LENGTH_BYTES)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Repeats a call that a signal interrupted; the watchdog sends some.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

fn read_direct(direct: &DirectFile<'_>, target: &VolatileSlice<'_>, offset: u64) -> io::Result<usize> {
    let mut bounce = Bounce::new(target.len().min(BOUNCE_BYTES));
    let mut done = 0;
    while done < target.len() {
        let rest = target.offset(done).map_err(|_| fault())?;
        let wanted = rest.len().min(BOUNCE_BYTES);
        let count = direct.read_at(&mut bounce.get()[..wanted], offset + done as u64)?;
        rest.copy_from(&bounce.get()[..count]);
        done += count;
        if count < wanted {
            break;
        }
    }
    Ok(done)
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

fn zero_slice(target: &VolatileSlice<'_>, from: usize) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = from;
    while at < target.len() {
        let rest = target.offset(at).map_err(|_| fault())?;
        let count = rest.len().min(ZEROS.len());
        rest.copy_from(&ZEROS[..count]);
        at += count;
    }
    Ok(())
}
