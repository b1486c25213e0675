//! Loads a guest program: a static ELF file whose segments lie in the program's place, each on its own pages.
//!
//! The programs are built with this host and embedded, so anything unexpected is a mistake in the build and refused. What a guest
//! only reads of an embedded program stays where it is: the guest's memory has the file's own pages there.

use instar_abi::memory::{PAGE_BYTES, PROGRAM_END, PROGRAM_START};

use super::error::VmError;
use super::layout::{Access, Region};
use super::memory::{GuestRam, Slot};

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const SEGMENT_LOAD: u32 = 1;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_READ: u32 = 4;
/// The most segments: text, constants, data, and some that are not loaded.
const MAX_SEGMENTS: u16 = 16;

/// A program that was found loadable.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    file: &'a [u8],
    entry: u64,
    segments: Vec<Segment<'a>>,
}

#[derive(Debug)]
struct Segment<'a> {
    address: u64,
    bytes: &'a [u8],
    end: u64,
    access: Access,
}

impl<'a> Program<'a> {
    /// Reads the file's headers.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, VmError> {
        let header = file.get(..HEADER_BYTES).ok_or(VmError::Program("is too short"))?;
        // Magic, 64 bits, little-endian, version 1; executable, x86-64.
        if header[..7] != *b"\x7fELF\x02\x01\x01" || u16_at(header, 16) != 2 || u16_at(header, 18) != 62 {
            return Err(VmError::Program("is not a static executable for x86-64"));
        }
        let entry = u64_at(header, 24);
        let (size, count) = (u16_at(header, 54), u16_at(header, 56));
        if usize::from(size) != SEGMENT_BYTES || count > MAX_SEGMENTS {
            return Err(VmError::Program("has an unknown segment table"));
        }
        let table = piece(file, u64_at(header, 32), u64::from(count) * SEGMENT_BYTES as u64)?;
        let segments = table
            .chunks_exact(SEGMENT_BYTES)
            .filter(|row| u32_at(row, 0) == SEGMENT_LOAD && u64_at(row, 40) != 0)
            .map(|row| Segment::parse(file, row))
            .collect::<Result<Vec<_>, _>>()?;
        let enterable = |s: &Segment<'_>| s.access == Access::ReadExecute && (s.address..s.end).contains(&entry);
        if !segments.iter().any(enterable) {
            return Err(VmError::Program("starts outside of its text"));
        }
        Ok(Self { file, entry, segments })
    }

    /// Where the program starts.
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }

    /// Writes what lies behind an address of the program's place to memory.
    pub(crate) fn load_from(&self, start: u64, ram: &GuestRam) -> Result<(), VmError> {
        let mut segments = self.segments.iter().filter(|segment| segment.address >= start);
        segments.try_for_each(|segment| ram.write_low(segment.address, segment.bytes))
    }

    /// The pages that it lies on. Two segments on one page are refused when these are mapped.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        self.segments.iter().map(|segment| Region {
            start: segment.address - segment.address % PAGE_BYTES,
            end: segment.end.next_multiple_of(PAGE_BYTES),
            access: segment.access,
        })
    }
}

impl Program<'static> {
    /// The pages of text and constants, if they lie in the file as they do in the program: on whole pages, from [`PROGRAM_START`] on,
    /// before everything that is written to. Behind their ends stands what else is in the file.
    pub(crate) fn constant_pages(&self) -> Option<Slot> {
        let offset = |segment: &Segment<'_>| segment.bytes.as_ptr().addr() - self.file.as_ptr().addr();
        let first = offset(self.segments.first()?);
        let lies_alike = |segment: &&Segment<'_>| {
            segment.access != Access::ReadWrite && (offset(segment) - first) as u64 == segment.address - PROGRAM_START
        };
        let constants = self.segments.iter().take_while(lies_alike);
        let length_bytes = constants.last()?.end.next_multiple_of(PAGE_BYTES) - PROGRAM_START;
        let pages = self.file.get(first..)?.get(..usize::try_from(length_bytes).ok()?)?;
        let host_address = pages.as_ptr().expose_provenance() as u64;
        let is_whole = host_address.is_multiple_of(PAGE_BYTES);
        is_whole.then_some(Slot { guest_address: PROGRAM_START, host_address, length_bytes })
    }
}

impl<'a> Segment<'a> {
    fn parse(file: &'a [u8], row: &[u8]) -> Result<Self, VmError> {
        let access = match u32_at(row, 4) {
            flags if flags == FLAG_READ => Access::Read,
            flags if flags == FLAG_READ | FLAG_EXECUTE => Access::ReadExecute,
            flags if flags == FLAG_READ | FLAG_WRITE => Access::ReadWrite,
            _ => return Err(VmError::Program("has a segment that is writable and executable, or unreadable")),
        };
        let bytes = piece(file, u64_at(row, 8), u64_at(row, 32))?;
        let (address, memory_bytes) = (u64_at(row, 16), u64_at(row, 40));
        let end = address.checked_add(memory_bytes).filter(|end| *end <= PROGRAM_END);
        match end {
            Some(end) if address >= PROGRAM_START && bytes.len() as u64 <= memory_bytes => {
                Ok(Self { address, bytes, end, access })
            }
            _ => Err(VmError::Program("has a segment outside of the program's place")),
        }
    }
}

fn piece(file: &[u8], offset: u64, length: u64) -> Result<&[u8], VmError> {
    let range =
        offset.checked_add(length).and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    range.and_then(|range| file.get(range)).ok_or(VmError::Program("is cut short"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one segment that holds the whole file.
    fn file(flags: u32, address: u64, memory_bytes: u64) -> Vec<u8> {
        let mut file = vec![0; 0x200];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 2;
        file[18] = 62;
        file[24..32].copy_from_slice(&PROGRAM_START.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        let row = &mut file[64..120];
        row[0] = 1;
        row[4..8].copy_from_slice(&flags.to_le_bytes());
        row[16..24].copy_from_slice(&address.to_le_bytes());
        row[32..40].copy_from_slice(&0x200u64.to_le_bytes());
        row[40..48].copy_from_slice(&memory_bytes.to_le_bytes());
        file
    }

    #[test]
    fn good_program_is_loaded() {
        let file = file(5, PROGRAM_START, 0x300);
        let program = Program::parse(&file).expect("loadable");
        assert_eq!(program.entry(), PROGRAM_START);
        let ram = GuestRam::new(instar_abi::memory::MIN_MEMORY_BYTES).expect("memory");
        program.load_from(PROGRAM_START, &ram).expect("load");
        let mut start = [0; 4];
        ram.read_low(PROGRAM_START, &mut start).expect("read");
        assert_eq!(&start, b"\x7fELF");
    }

    /// The pages of constants of the first so many bytes of a program that this host was built with.
    fn constants_of_codec(length: usize) -> Option<Slot> {
        let file: &'static [u8] = crate::program::codec();
        Program::parse(file)
            .map(|program| Program { file: &file[..length], ..program }.constant_pages())
            .expect("loadable")
    }

    #[test]
    fn constants_of_an_embedded_program_lie_there_as_they_would_be_loaded() {
        let file = crate::program::codec();
        let program = Program::parse(file).expect("loadable");
        let constants = constants_of_codec(file.len()).expect("on pages of their own");
        let regions: Vec<Region> = program.regions().collect();
        let data = regions.iter().find(|region| region.access == Access::ReadWrite).expect("data");
        assert_eq!((constants.guest_address, constants.end()), (PROGRAM_START, data.start));
        let offset = usize::try_from(constants.host_address).expect("an address") - file.as_ptr().addr();
        for segment in program.segments.iter().filter(|segment| segment.access != Access::ReadWrite) {
            let start = offset + usize::try_from(segment.address - PROGRAM_START).expect("small");
            assert!(file[start..].starts_with(segment.bytes), "{:#x}", segment.address);
        }
    }

    #[test]
    fn constants_that_the_file_does_not_hold_to_their_last_page_are_copied() {
        let length_bytes =
            usize::try_from(constants_of_codec(crate::program::codec().len()).expect("pages").length_bytes);
        assert!(constants_of_codec(length_bytes.expect("small") - 1).is_none());
    }

    #[test]
    fn writable_text_is_refused() {
        assert!(Program::parse(&file(7, PROGRAM_START, 0x300)).is_err());
    }

    #[test]
    fn segments_outside_of_the_programs_place_are_refused() {
        for (address, memory_bytes) in [
            (0, 0x300),
            (PROGRAM_START - 1, 0x300),
            (PROGRAM_END - 0x200, 0x201),
            (u64::MAX - 1, 0x300),
            (PROGRAM_START, 0x1ff),
        ] {
            assert!(Program::parse(&file(5, address, memory_bytes)).is_err(), "{address:#x}");
        }
    }

    #[test]
    fn cut_files_are_refused() {
        let whole = file(5, PROGRAM_START, 0x300);
        for length in 0..whole.len() {
            assert!(Program::parse(&whole[..length]).is_err(), "{length}");
        }
    }
}
