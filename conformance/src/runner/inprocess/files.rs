//! Open files as the executor's devices: what the product's device layer does, in its plainest form.

use instar::session::DeviceFile;
use instar_exec::{CopySegment, DeviceId, Operation, Storage, StorageError};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Devices over open files.
pub struct FileStorage<'a> {
    files: Vec<(&'a File, bool)>,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> FileStorage<'a> {
    /// The files of a job, and whom to tell how far it is.
    pub fn new(devices: &'a [DeviceFile<'a>], progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        let files = devices.iter().map(|device| (device.file, device.writable)).collect();
        Self { files, progress }
    }

    fn file(&self, device: DeviceId) -> io::Result<&'a File> {
        let found = usize::try_from(device.0).ok().and_then(|index| self.files.get(index));
        found.map(|(file, _)| *file).ok_or_else(|| errno(nix::Error::ENODEV))
    }

    /// The file, if the job may change it.
    fn writable(&self, device: DeviceId) -> io::Result<&'a File> {
        let file = self.file(device)?;
        let writable = usize::try_from(device.0).ok().and_then(|index| self.files.get(index)).is_some_and(|it| it.1);
        if writable { Ok(file) } else { Err(errno(nix::Error::EACCES)) }
    }

    fn punch(&self, device: DeviceId, offset: u64, length_bytes: u64) -> io::Result<()> {
        let file = self.writable(device)?;
        let inside = length_bytes.min(file.metadata()?.len().saturating_sub(offset));
        if inside == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(file, flags, signed(offset)?, signed(inside)?)?)
    }
}

fn errno(error: nix::Error) -> io::Error {
    io::Error::from(error)
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| errno(nix::Error::EFBIG))
}

/// Fills `buffer`; what lies beyond the end of the file reads as zeros.
fn read_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset)? {
            0 => {
                buffer.fill(0);
                return Ok(());
            }
            count => {
                offset += count as u64;
                buffer = &mut buffer[count..];
            }
        }
    }
    Ok(())
}

fn failed(device: DeviceId, operation: Operation, offset: u64) -> impl Fn(io::Error) -> StorageError {
    move |error| StorageError { device, operation, offset, errno: error.raw_os_error().unwrap_or(5) }
}

impl Storage for FileStorage<'_> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.file(device).and_then(File::metadata).map_or(0, |status| status.len())
    }

    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.file(device).and_then(|file| read_at(file, offset, buffer)).map_err(failed(
            device,
            Operation::Read,
            offset,
        ))
    }

    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.writable(device).and_then(|file| file.write_all_at(bytes, offset)).map_err(failed(
            device,
            Operation::Write,
            offset,
        ))
    }

    fn write_zeroes(
        &mut self,
        device: DeviceId,
        offset: u64,
        length_bytes: u64,
        _may_unmap: bool,
    ) -> Result<(), StorageError> {
        let zero = || {
            self.punch(device, offset, length_bytes)?;
            let (file, end) = (self.writable(device)?, offset.saturating_add(length_bytes));
            if end > file.metadata()?.len() { file.set_len(end) } else { Ok(()) }
        };
        zero().map_err(failed(device, Operation::WriteZeroes, offset))
    }

    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.punch(device, offset, length_bytes).map_err(failed(device, Operation::Discard, offset))
    }

    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        let mut buffer = Vec::new();
        for segment in segments {
            let mut done = 0;
            while done < segment.length_bytes {
                let count = (segment.length_bytes - done).min(PIECE_BYTES);
                buffer.resize(usize::try_from(count).unwrap_or(0), 0);
                self.read(segment.source, segment.source_offset + done, &mut buffer)?;
                self.write(target, segment.target_offset + done, &buffer)?;
                done += count;
            }
        }
        Ok(())
    }

    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.writable(device).and_then(|file| file.set_len(length_bytes)).map_err(failed(
            device,
            Operation::Resize,
            length_bytes,
        ))
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&mut self, _: DeviceId) -> Result<(), StorageError> {
        // No test takes the power away.
        Ok(())
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        (self.progress)(done_bytes, total_bytes);
    }
}
