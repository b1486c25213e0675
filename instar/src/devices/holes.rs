//! Where a file has data and where holes, as far as the file system tells. Never looks at a byte.
//!
//! A stretch of data is asked for once: on some file systems (tmpfs) finding its end takes as long as it is large. That there
//! was data may be remembered whatever becomes of the file; that there was a hole may not.

use std::fs::File;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

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
}
