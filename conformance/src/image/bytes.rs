//! Reading numbers and ranges from a file; what lies beyond its end reads as zero.

use super::ImageError;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that can be read at any offset.
pub trait ReadAt: fmt::Debug {
    /// Fills `buf` from `offset`; all of it lies inside.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

/// Where files are looked up by their paths.
pub trait Files {
    /// Opens one for reading.
    fn open(&self, path: &Path) -> Result<Source, ImageError>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct OnDisk;

impl Files for OnDisk {
    fn open(&self, path: &Path) -> Result<Source, ImageError> {
        let file = File::open(path)?;
        let length_bytes = file.metadata()?.len();
        Ok(Source::new(file, length_bytes))
    }
}

/// An open file with its length.
#[derive(Debug)]
pub struct Source {
    file: Box<dyn ReadAt>,
    length_bytes: u64,
}

impl Source {
    /// What can be read up to `length_bytes`.
    pub fn new(file: impl ReadAt + 'static, length_bytes: u64) -> Self {
        Self { file: Box::new(file), length_bytes }
    }

    /// File length in bytes.
    pub fn length(&self) -> u64 {
        self.length_bytes
    }

    /// Fills `buf` from `offset`; bytes beyond the end of the file are zero.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let inside = self.length_bytes.saturating_sub(offset).min(buf.len() as u64);
        let inside = usize::try_from(inside).map_err(|_| ImageError("read too long".into()))?;
        buf[inside..].fill(0);
        self.file.read_exact_at(&mut buf[..inside], offset)?;
        Ok(())
    }

    /// `length` bytes from `offset`, with zeros beyond the end of the file; refuses more than 256 MiB.
    pub fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, ImageError> {
        if length > 256 << 20 {
            return Err(ImageError(format!("structure of {length} bytes")));
        }
        let mut buf = vec![0; usize::try_from(length).map_err(|_| ImageError("structure too long".into()))?];
        self.read(offset, &mut buf)?;
        Ok(buf)
    }
}

/// Big-endian 32-bit number at `at`; 0 where the buffer ends before.
pub(crate) fn be32(buf: &[u8], at: usize) -> u32 {
    buf.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Big-endian 64-bit number at `at`; 0 where the buffer ends before.
pub(crate) fn be64(buf: &[u8], at: usize) -> u64 {
    buf.get(at..at + 8).map_or(0, |b| u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
}

/// Little-endian 32-bit number at `at`; 0 where the buffer ends before.
pub(crate) fn le32(buf: &[u8], at: usize) -> u32 {
    be32(buf, at).swap_bytes()
}

/// Little-endian 64-bit number at `at`; 0 where the buffer ends before.
pub(crate) fn le64(buf: &[u8], at: usize) -> u64 {
    be64(buf, at).swap_bytes()
}
