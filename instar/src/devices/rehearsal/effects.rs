//! What a job would do to a file, in numbers.

use std::fs::File;
use std::ops::Range;

use rustix::fs::SeekFrom;

use super::pieces::{Content, Pieces};

/// `Effects::obstacle`: why a rehearsal is of no use.
pub mod obstacle {
    /// It is of use.
    pub const NONE: u64 = 0;
    /// More separate places of the file change than are kept in memory, or the guest program wanted to read one whose bytes
    /// were not kept track of.
    pub const TOO_MUCH: u64 = 1;
    /// The scratch file could not be written or read; the error number stands beside it.
    pub const SCRATCH: u64 = 2;
}

instar_abi::wire_struct! {
    /// What a job would do to a file. A place that is changed more than once counts for what was done to it last; neighbours
    /// to which the same was done are one extent. Lengths and amounts are in bytes.
    pub struct Effects {
        /// Length of the file before.
        pub length_before: u64,
        /// Length of the file afterwards.
        pub length_after: u64,
        /// What is copied to it from other files, or within it.
        pub copied_bytes: u64,
        /// In how many extents.
        pub copied_extents: u64,
        /// What the guest program writes: metadata, and data that it had to unpack, pack, encrypt or decrypt.
        pub written_bytes: u64,
        /// In how many extents.
        pub written_extents: u64,
        /// What is made to read as zeros.
        pub zeroed_bytes: u64,
        /// In how many extents.
        pub zeroed_extents: u64,
        /// What is given back to the file system without a change of the length.
        pub released_bytes: u64,
        /// In how many extents.
        pub released_extents: u64,
        /// What has to be stored where the file stores nothing now.
        pub newly_stored_bytes: u64,
        /// What the file stores now and will not store any more.
        pub freed_bytes: u64,
        /// One of [`obstacle`].
        pub obstacle: u64,
        /// The system's error number for it, or 0.
        pub obstacle_errno: u64,
    }
}

impl Effects {
    /// Of a job that leaves a file of this length as it is.
    #[must_use]
    pub fn none(length_bytes: u64) -> Self {
        Self {
            length_before: length_bytes,
            length_after: length_bytes,
            copied_bytes: 0,
            copied_extents: 0,
            written_bytes: 0,
            written_extents: 0,
            zeroed_bytes: 0,
            zeroed_extents: 0,
            released_bytes: 0,
            released_extents: 0,
            newly_stored_bytes: 0,
            freed_bytes: 0,
            obstacle: obstacle::NONE,
            obstacle_errno: 0,
        }
    }

    /// Counts pieces; what `file` stores now is asked of the file system.
    pub(super) fn count(&mut self, pieces: &Pieces, file: &File) {
        let mut stored = Joined::default();
        let mut last: Option<(u64, u8)> = None;
        for (range, content) in pieces.iter() {
            let length = range.end - range.start;
            let (bytes, extents, kind) = match content {
                Content::Copied(_) => (&mut self.copied_bytes, &mut self.copied_extents, 0),
                Content::Written => (&mut self.written_bytes, &mut self.written_extents, 1),
                Content::Zeroed { .. } => (&mut self.zeroed_bytes, &mut self.zeroed_extents, 2),
                Content::Released => (&mut self.released_bytes, &mut self.released_extents, 3),
            };
            *bytes = bytes.saturating_add(length);
            *extents += u64::from(last != Some((range.start, kind)));
            last = Some((range.end, kind));
            if matches!(content, Content::Zeroed { stored: false } | Content::Released) {
                self.freed_bytes += data_bytes(file, range);
            } else if let Some(whole) = stored.push(range) {
                self.newly_stored_bytes += (whole.end - whole.start) - data_bytes(file, whole);
            }
        }
        if let Some(whole) = stored.0 {
            self.newly_stored_bytes += (whole.end - whole.start) - data_bytes(file, whole);
        }
        self.freed_bytes += data_bytes(file, self.length_after..self.length_before);
    }
}

/// Joins ranges that follow each other.
#[derive(Default)]
struct Joined(Option<Range<u64>>);

impl Joined {
    /// Gives the joined range that ends before `next`, if one does.
    fn push(&mut self, next: Range<u64>) -> Option<Range<u64>> {
        match &mut self.0 {
            Some(last) if last.end == next.start => {
                last.end = next.end;
                None
            }
            last => last.replace(next),
        }
    }
}

/// How much of a range of a file is stored. A file system that cannot tell stores all of it, up to the file's end.
pub fn data_bytes(file: &File, range: Range<u64>) -> u64 {
    let (mut at, mut sum) = (range.start, 0);
    while at < range.end {
        let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) else { break };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(range.end).min(range.end);
        if hole <= data {
            break;
        }
        sum += hole - data;
        at = hole;
    }
    sum
}
