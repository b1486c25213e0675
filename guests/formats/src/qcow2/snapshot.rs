//! The snapshot table of qcow2 (qcow2.txt, "Snapshots"): entries of varying length behind each other.
//!
//! The table can be long, so it is read entry by entry: the caller brings the bytes from
//! [`SnapshotTable::next_offset`], as many as the last [`Step::NeedBytes`] asked for.

use alloc::vec::Vec;
use core::fmt;

use super::header::{Header, MAX_READABLE_OFFSET};
use crate::bytes::{be_u16, be_u32, be_u64, until_zero};

/// Length of an entry's fixed part in bytes.
pub const FIXED_ENTRY_BYTES: usize = 40;
/// Most extra data of an entry in bytes; qemu-img's limit.
pub const MAX_EXTRA_BYTES: u32 = 1024;
/// Longest snapshot table in bytes; qemu-img's limit.
pub const MAX_TABLE_BYTES: u64 = 64 << 20;
/// How much of an id qemu-img keeps, in bytes.
pub const MAX_ID_BYTES: usize = 127;
/// How much of a name qemu-img keeps, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// One internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where its L1 table lies; not checked.
    pub l1_offset: u64,
    /// Entries of its L1 table; not checked.
    pub l1_entries: u32,
    /// Its id, up to [`MAX_ID_BYTES`] bytes; not necessarily UTF-8.
    pub id: Vec<u8>,
    /// Its name, up to [`MAX_NAME_BYTES`] bytes; not necessarily UTF-8.
    pub name: Vec<u8>,
    /// When it was made: seconds since the epoch.
    pub date_seconds: u32,
    /// And nanoseconds.
    pub date_nanoseconds: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Length of the saved machine state in bytes; 0 for none.
    pub vm_state_size_bytes: u64,
    /// Size of the disk at that time, where recorded.
    pub virtual_size_bytes: Option<u64>,
    /// Instructions executed, where recorded.
    pub icount: Option<u64>,
}

/// What [`SnapshotTable::step`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next snapshot; `next_offset` has moved on.
    Entry(Snapshot),
    /// The bytes end too early: bring at least this many, 40 to 132,134.
    NeedBytes(usize),
    /// There are no more.
    End,
}

/// Why a snapshot table cannot be read; `Display` gives qemu-img's text, some with a second line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// An entry where no file can have data.
    Unreadable,
    /// An entry with more than [`MAX_EXTRA_BYTES`] of extra data.
    TooMuchExtra {
        /// Number of the entry, from 0.
        index: u32,
    },
    /// A table longer than [`MAX_TABLE_BYTES`].
    TooBig {
        /// How many snapshots are beyond the limit.
        overhanging: u32,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("Failed to read snapshot table: Input/output error"),
            Self::TooMuchExtra { index } => write!(
                f,
                "Too much extra metadata in snapshot table entry {index}\n\
                 You can force-remove this extra metadata with qemu-img check -r all"
            ),
            Self::TooBig { overhanging } => write!(
                f,
                "Snapshot table is too big\n\
                 You can force-remove all {overhanging} overhanging snapshots with qemu-img check -r all"
            ),
        }
    }
}

impl core::error::Error for SnapshotError {}

/// A position in a snapshot table.
#[derive(Clone, Debug)]
pub struct SnapshotTable {
    start: u64,
    offset: u64,
    index: u32,
    count: u32,
}

impl SnapshotTable {
    /// At the first entry.
    pub fn new(header: &Header) -> Self {
        let start = header.snapshots_offset;
        Self { start, offset: start, index: 0, count: header.snapshot_count }
    }

    /// Where the next entry lies in the file.
    pub fn next_offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next entry from `bytes`, which begin at [`SnapshotTable::next_offset`]. Bytes behind the end of the
    /// file are zeros.
    ///
    /// # Errors
    /// If the table is beyond a limit.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, SnapshotError> {
        if self.index >= self.count {
            return Ok(Step::End);
        }
        self.check_readable(FIXED_ENTRY_BYTES)?;
        let Some(entry) = Entry::read(bytes) else {
            return Ok(Step::NeedBytes(FIXED_ENTRY_BYTES));
        };
        if entry.extra_bytes > MAX_EXTRA_BYTES {
            return Err(SnapshotError::TooMuchExtra { index: self.index });
        }
        let length = entry.length_bytes();
        self.check_readable(length)?;
        let Some(tail) = bytes.get(FIXED_ENTRY_BYTES..length) else {
            return Ok(Step::NeedBytes(length));
        };
        // Entries begin at multiples of 8; the table does, too.
        let next_offset = self.offset + length.next_multiple_of(8) as u64;
        if next_offset - self.start > MAX_TABLE_BYTES {
            return Err(SnapshotError::TooBig { overhanging: self.count - self.index });
        }
        self.offset = next_offset;
        self.index += 1;
        Ok(Step::Entry(entry.into_snapshot(tail)))
    }

    fn check_readable(&self, length_bytes: usize) -> Result<(), SnapshotError> {
        match self.offset.checked_add(length_bytes as u64) {
            Some(end) if end <= MAX_READABLE_OFFSET => Ok(()),
            _ => Err(SnapshotError::Unreadable),
        }
    }
}

/// The fixed part of an entry.
struct Entry {
    l1_offset: u64,
    l1_entries: u32,
    id_bytes: usize,
    name_bytes: usize,
    date_seconds: u32,
    date_nanoseconds: u32,
    vm_clock_nanoseconds: u64,
    vm_state_size_bytes: u32,
    extra_bytes: u32,
}

impl Entry {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            l1_offset: be_u64(bytes, 0)?,
            l1_entries: be_u32(bytes, 8)?,
            id_bytes: be_u16(bytes, 12)?.into(),
            name_bytes: be_u16(bytes, 14)?.into(),
            date_seconds: be_u32(bytes, 16)?,
            date_nanoseconds: be_u32(bytes, 20)?,
            vm_clock_nanoseconds: be_u64(bytes, 24)?,
            vm_state_size_bytes: be_u32(bytes, 32)?,
            extra_bytes: be_u32(bytes, 36)?,
        })
    }

    /// Length of the whole entry without padding; the extra data is within its limit.
    fn length_bytes(&self) -> usize {
        FIXED_ENTRY_BYTES + self.extra_bytes as usize + self.id_bytes + self.name_bytes
    }

    /// `tail`: extra data, id and name.
    fn into_snapshot(self, tail: &[u8]) -> Snapshot {
        let (extra, strings) = tail.split_at(self.extra_bytes as usize);
        let (id, name) = strings.split_at(self.id_bytes);
        Snapshot {
            l1_offset: self.l1_offset,
            l1_entries: self.l1_entries,
            id: cut(id, MAX_ID_BYTES),
            name: cut(name, MAX_NAME_BYTES),
            date_seconds: self.date_seconds,
            date_nanoseconds: self.date_nanoseconds,
            vm_clock_nanoseconds: self.vm_clock_nanoseconds,
            vm_state_size_bytes: be_u64(extra, 0).unwrap_or(self.vm_state_size_bytes.into()),
            virtual_size_bytes: be_u64(extra, 8),
            icount: be_u64(extra, 16).filter(|&icount| icount != u64::MAX),
        }
    }
}

fn cut(bytes: &[u8], limit: usize) -> Vec<u8> {
    until_zero(&bytes[..bytes.len().min(limit)]).to_vec()
}
