//! The bitmap directory of qcow2 (qcow2.txt, "Bitmaps"): entries of varying length behind each other.
//!
//! Read entry by entry like the snapshot table: the caller brings the bytes from [`BitmapDirectory::next_offset`], as many as the
//! last [`Step::NeedBytes`] asked for.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::extension::BitmapsPointer;
use super::header::{Header, MAX_READABLE_OFFSET};
use crate::bytes::{be_u16, be_u32, be_u64, until_zero};
use crate::raw::SECTOR_BYTES;

/// Length of an entry's fixed part in bytes.
const FIXED_ENTRY_BYTES: usize = 24;
/// Longest name in bytes; the format's limit.
const MAX_NAME_BYTES: usize = 1023;
/// Most entries of a bitmap table; qemu-img's limit.
const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// Most bitmap data in bytes; qemu-img's limit.
const MAX_DATA_BYTES: u64 = 512 << 20;
/// Smallest and largest granularity as powers of two; qemu-img's limits.
const GRANULARITY_BITS: core::ops::RangeInclusive<u8> = 9..=31;

/// Flag: the bitmap was not saved properly and must not be trusted.
pub const FLAG_IN_USE: u32 = 1;
/// Flag: every write must be recorded.
pub const FLAG_AUTO: u32 = 1 << 1;

/// One persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Where its table lies; a multiple of the cluster size.
    pub table_offset: u64,
    /// Entries of its table, which are clusters of bitmap data, at least 1.
    pub table_entries: u32,
    /// Bits [`FLAG_IN_USE`] and [`FLAG_AUTO`], no others.
    pub flags: u32,
    /// Bytes of the disk that one bit stands for, as a power of two: 9 to 31.
    pub granularity_bits: u8,
    /// Its name, up to 1023 bytes; not necessarily UTF-8, possibly empty.
    pub name: Vec<u8>,
}

impl Bitmap {
    /// Bytes of the disk that one bit stands for.
    pub fn granularity_bytes(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Entries of the table that its granularity needs for a disk of `virtual_size_bytes`; `None` if that is beyond a limit.
    pub fn table_entries_for(&self, virtual_size_bytes: u64, cluster_bits: u32) -> Option<u32> {
        let bits = (virtual_size_bytes / SECTOR_BYTES * SECTOR_BYTES).div_ceil(self.granularity_bytes());
        let entries = u32::try_from(bits.div_ceil(8).div_ceil(1 << cluster_bits)).ok()?;
        let data_bytes = u64::from(entries) << cluster_bits;
        ((1..=MAX_TABLE_ENTRIES).contains(&entries) && data_bytes <= MAX_DATA_BYTES).then_some(entries)
    }

    /// Whether the bitmap was not saved properly.
    pub fn is_in_use(&self) -> bool {
        self.flags & FLAG_IN_USE != 0
    }

    /// Whether every write must be recorded.
    pub fn is_enabled(&self) -> bool {
        self.flags & FLAG_AUTO != 0
    }
}

/// What [`BitmapDirectory::step`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next bitmap; `next_offset` has moved on.
    Entry(Bitmap),
    /// The bytes end too early: bring at least this many, 24 to 65,559.
    NeedBytes(usize),
    /// There are no more.
    End,
}

/// Why a bitmap directory cannot be read; `Display` gives qemu-img's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitmapError {
    /// A directory of length 0.
    Empty,
    /// A directory where no file can have data.
    Unreadable,
    /// A directory at offset 0, or an entry that leaves the directory.
    Broken,
    /// More entries than the header extension says.
    MoreThanSaid,
    /// Fewer entries than the header extension says.
    LessThanSaid,
    /// An entry with extra data.
    ExtraData,
    /// An entry with a field out of range.
    Constraints {
        /// The bitmap's name.
        name: String,
    },
    /// A bitmap whose table does not have the length that its granularity needs.
    TableLength {
        /// The bitmap's name.
        name: String,
    },
    /// A bitmap whose table lies where no file can have data.
    TableUnreadable {
        /// The bitmap's name.
        name: String,
    },
    /// Two bitmaps of the same name.
    Duplicate {
        /// Their name.
        name: String,
    },
}

impl fmt::Display for BitmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Requested bitmap directory size is zero"),
            Self::Unreadable => f.write_str("Failed to read bitmap directory: Input/output error"),
            Self::Broken => f.write_str("Broken bitmap directory"),
            Self::MoreThanSaid => f.write_str("More bitmaps found than specified in header extension"),
            Self::LessThanSaid => f.write_str("Less bitmaps found than specified in header extension"),
            Self::ExtraData => f.write_str("Bitmap extra data is not supported"),
            Self::Constraints { name } => write!(f, "Bitmap '{name}' doesn't satisfy the constraints"),
            Self::TableLength { name } => write!(f, "Could not read bitmap '{name}' from image: Invalid argument"),
            Self::TableUnreadable { name } => {
                write!(f, "Could not read bitmap_table table from image for bitmap '{name}': Input/output error")
            }
            Self::Duplicate { name } => write!(f, "Bitmap already exists: {name}"),
        }
    }
}

impl core::error::Error for BitmapError {}

/// A position in a bitmap directory.
#[derive(Clone, Debug)]
pub struct BitmapDirectory {
    offset: u64,
    end: u64,
    index: u32,
    count: u32,
    cluster_bits: u32,
    virtual_size_bytes: u64,
}

impl BitmapDirectory {
    /// At the first entry of the directory of `header`, which `pointer` is from.
    ///
    /// # Errors
    /// If there can be no directory at that place.
    pub fn new(header: &Header, pointer: BitmapsPointer) -> Result<Self, BitmapError> {
        let BitmapsPointer { count, directory_size_bytes, directory_offset } = pointer;
        if directory_size_bytes == 0 {
            return Err(BitmapError::Empty);
        }
        let end = directory_offset
            .checked_add(directory_size_bytes)
            .filter(|&end| end <= MAX_READABLE_OFFSET)
            .ok_or(BitmapError::Unreadable)?;
        let Header { cluster_bits, virtual_size_bytes, .. } = *header;
        let virtual_size_bytes = virtual_size_bytes / SECTOR_BYTES * SECTOR_BYTES;
        Ok(Self { offset: directory_offset, end, index: 0, count, cluster_bits, virtual_size_bytes })
    }

    /// Where the next entry lies in the file.
    pub fn next_offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next entry from `bytes`, which begin at [`BitmapDirectory::next_offset`]. Bytes behind the end of the
    /// file are zeros.
    ///
    /// # Errors
    /// What qemu-img finds first.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, BitmapError> {
        if self.offset == self.end {
            return if self.index < self.count { Err(BitmapError::LessThanSaid) } else { Ok(Step::End) };
        }
        let room = self.end - self.offset;
        if room < FIXED_ENTRY_BYTES as u64 {
            return Err(BitmapError::Broken);
        }
        let Some(entry) = Entry::read(bytes) else {
            return Ok(Step::NeedBytes(FIXED_ENTRY_BYTES));
        };
        if self.index >= self.count {
            return Err(BitmapError::MoreThanSaid);
        }
        // A length that overflows an int counts as one that fits, until the extra data is refused.
        let recorded_length = entry.padded_length_bytes();
        if recorded_length > room && i32::try_from(recorded_length).is_ok() {
            return Err(BitmapError::Broken);
        }
        if entry.extra_bytes != 0 {
            return Err(BitmapError::ExtraData);
        }
        let length = FIXED_ENTRY_BYTES + entry.name_bytes;
        let padded_length = length.next_multiple_of(8) as u64;
        let Some(name) = bytes.get(FIXED_ENTRY_BYTES..length) else {
            return Ok(Step::NeedBytes(length));
        };
        let bitmap = entry.into_bitmap(name);
        self.check(&bitmap, entry_is_dirty_tracking(bytes), name.len())?;
        self.offset += padded_length;
        self.index += 1;
        Ok(Step::Entry(bitmap))
    }

    fn check(&self, bitmap: &Bitmap, is_dirty_tracking: bool, name_bytes: usize) -> Result<(), BitmapError> {
        let name = || String::from_utf8_lossy(&bitmap.name).into_owned();
        let cluster_bytes = 1u64 << self.cluster_bits;
        let data_bytes = u64::from(bitmap.table_entries) * cluster_bytes;
        let is_possible = name_bytes <= MAX_NAME_BYTES
            && is_dirty_tracking
            && GRANULARITY_BITS.contains(&bitmap.granularity_bits)
            && bitmap.flags & !(FLAG_IN_USE | FLAG_AUTO) == 0
            && bitmap.table_offset != 0
            && bitmap.table_offset.is_multiple_of(cluster_bytes)
            && (1..=MAX_TABLE_ENTRIES).contains(&bitmap.table_entries)
            && data_bytes <= MAX_DATA_BYTES;
        if !is_possible {
            return Err(BitmapError::Constraints { name: name() });
        }
        // The disk may have been resized under a bitmap that was not saved properly.
        if bitmap.is_in_use() {
            return Ok(());
        }
        let table_end = bitmap.table_offset.checked_add(8 * u64::from(bitmap.table_entries));
        if table_end.is_none_or(|end| end > MAX_READABLE_OFFSET) {
            return Err(BitmapError::TableUnreadable { name: name() });
        }
        let needed_bytes = self.virtual_size_bytes.div_ceil(bitmap.granularity_bytes()).div_ceil(8);
        if needed_bytes > data_bytes {
            return Err(BitmapError::Constraints { name: name() });
        }
        if needed_bytes.div_ceil(cluster_bytes) != u64::from(bitmap.table_entries) {
            return Err(BitmapError::TableLength { name: name() });
        }
        Ok(())
    }
}

/// The only type of bitmap that the format knows.
fn entry_is_dirty_tracking(bytes: &[u8]) -> bool {
    bytes.get(16) == Some(&1)
}

/// The fixed part of an entry.
#[derive(Clone, Copy)]
struct Entry {
    table_offset: u64,
    table_entries: u32,
    flags: u32,
    granularity_bits: u8,
    name_bytes: usize,
    extra_bytes: u32,
}

impl Entry {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            table_offset: be_u64(bytes, 0)?,
            table_entries: be_u32(bytes, 8)?,
            flags: be_u32(bytes, 12)?,
            granularity_bits: *bytes.get(17)?,
            name_bytes: be_u16(bytes, 18)?.into(),
            extra_bytes: be_u32(bytes, 20)?,
        })
    }

    /// Length of the whole entry with its padding.
    fn padded_length_bytes(self) -> u64 {
        ((FIXED_ENTRY_BYTES + self.name_bytes) as u64 + u64::from(self.extra_bytes)).next_multiple_of(8)
    }

    fn into_bitmap(self, name: &[u8]) -> Bitmap {
        Bitmap {
            table_offset: self.table_offset,
            table_entries: self.table_entries,
            flags: self.flags,
            granularity_bits: self.granularity_bits,
            name: until_zero(name).to_vec(),
        }
    }
}
