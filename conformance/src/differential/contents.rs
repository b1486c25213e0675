//! Bytes for the disks: every sector names its place and its write, so that a misplaced one is noticed and the fixture still packs well.

use crate::differential::plan::Range;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const SECTOR: u64 = 512;

/// Writes the bytes of a range to a file: sectors that hold their guest offset and the write's number.
pub fn write_named(path: &Path, range: Range, write: u64) -> io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let mut bytes = vec![0; usize::try_from(SECTOR).expect("512 fits")];
    let mut left = range.length;
    while left > 0 {
        let offset = range.offset + range.length - left;
        bytes.fill(0x41 + u8::try_from(write % 26).expect("below 26"));
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        let count = left.min(SECTOR);
        file.write_all(&bytes[..usize::try_from(count).expect("512 fits")])?;
        left -= count;
    }
    file.flush()
}

/// Writes bytes that do not compress.
pub fn write_noise(path: &Path, range: Range, write: u64) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(range.length).map_err(io::Error::other)?];
    fastrand::Rng::with_seed(range.offset ^ write << 48).fill(&mut bytes);
    std::fs::write(path, bytes)
}
