//! Where a file has data and where holes, as far as the file system tells. Never looks at a byte.
//!
//! A stretch of data is asked for once. That there was data may be remembered whatever becomes of the file; that there was a hole
//! may not.

use std::fs::File;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// How long a stretch of data is taken to be where nobody looks for its end.
const NEARBY_BYTES: u64 = 1 << 20;

/// What has been found out about a file.
#[derive(Debug, Default)]
pub(super) struct Holes {
    data: Mutex<Range<u64>>,
}

impl Holes {
    /// Where at or after `offset` the next data lies, and where after that the next hole begins; `None` if there is none, where
    /// the end of the file counts as a hole. Where the system cannot tell, there is nothing but data.
    pub(super) fn next_data(&self, file: &File, offset: u64) -> Option<(u64, u64)> {
        let known = self.data.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.contains(&offset) {
            return Some((offset, known.end));
        }
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(found) => found.max(offset),
            Err(Errno::NXIO) => return None,
            Err(_) => return Some((offset, u64::MAX)),
        };
        let end = seek(file, SeekFrom::Hole(start)).map_or(u64::MAX, |found| found.max(start));
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = start..end;
        Some((start, end))
    }
}

/// As [`Holes::next_data`] for file systems on which finding the end of data takes as long as it is large (tmpfs): of the
/// [`NEARBY_BYTES`] from the next data on nothing more is said.
pub(super) fn next_data_nearby(file: &File, offset: u64) -> Option<(u64, u64)> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Some((found.max(offset), found.max(offset).saturating_add(NEARBY_BYTES))),
        Err(Errno::NXIO) => None,
        Err(_) => Some((offset, u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;

    #[test]
    fn data_is_found_behind_holes_and_remembered() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 * MIB).expect("a length");
        for start in [2 * MIB, 5 * MIB] {
            file.write_all_at(&[7; 1 << 20], start).expect("data");
        }
        let holes = Holes::default();
        if holes.next_data(&file, 0) == Some((0, u64::MAX)) {
            // This file system tells nothing.
            return;
        }
        assert_eq!(holes.next_data(&file, 0), Some((2 * MIB, 3 * MIB)));
        assert_eq!(holes.next_data(&file, 2 * MIB + 5), Some((2 * MIB + 5, 3 * MIB)));
        assert_eq!(holes.next_data(&file, 3 * MIB), Some((5 * MIB, 6 * MIB)));
        assert_eq!(holes.next_data(&file, 6 * MIB), None);
        assert_eq!(holes.next_data(&file, 0), Some((2 * MIB, 3 * MIB)));
        // What becomes data later is found, too: nothing is remembered of holes.
        file.write_all_at(&[7; 1 << 20], 7 * MIB).expect("data");
        assert_eq!(holes.next_data(&file, 6 * MIB), Some((7 * MIB, 8 * MIB)));
    }

    #[test]
    fn in_memory_the_end_of_data_is_not_looked_for() {
        let file = rustix::fs::memfd_create("holes", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
        let file = File::from(file);
        file.set_len(64 * MIB).expect("a length");
        file.write_all_at(&[7; 4 << 20], 8 * MIB).expect("data");
        assert_eq!(next_data_nearby(&file, 0), Some((8 * MIB, 9 * MIB)));
        assert_eq!(next_data_nearby(&file, 9 * MIB + 5), Some((9 * MIB + 5, 10 * MIB + 5)));
        assert_eq!(next_data_nearby(&file, 12 * MIB), None);
    }
}
