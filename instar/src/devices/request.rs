//! Reads requests out of descriptor chains and checks their form. Does no I/O and knows no files.
//!
//! Whatever an honest driver never sends is [`Malformed`] and ends the run; a request of good form may still be refused by
//! the executor.

use instar_abi::block::{
    CompareRecord, Completion, CopyRecord, MAX_CLUSTER_BYTES, MAX_DATA_BYTES, MAX_PACK_BYTES, MAX_RECORDS,
    MAX_STANDARD_RANGES, MAX_STANDARD_SECTORS, MAX_UNPACK_RECORDS, MAX_VERDICTS, PackRecord, PackedLength,
    SECTOR_BYTES, StandardHeader, StandardRange, UnpackRecord, VendorHeader, kind, request_flag,
};
use instar_abi::wire::Wire;
use vm_memory::GuestAddress;

use super::chain::{Chain, Cursor, Malformed, Span, total};
use super::pack::Clusters;
use crate::vm::DmaMemory;

/// A range of bytes of the device; its end may still be anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) may_unmap: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Fill the spans. `exact`: what lies beyond the end is an error instead of zeros.
    Read { offset: u64, spans: Vec<Span>, exact: bool },
    /// Write the spans. `exact`: the device must not grow.
    Write { offset: u64, spans: Vec<Span>, exact: bool },
    /// Make everything durable.
    Flush,
    /// Copy to this device.
    Copy(Vec<CopyRecord>),
    /// Compare with other devices; one verdict a unit goes to the address.
    Compare(Vec<CompareRecord>, GuestAddress),
    /// Unpack clusters to this device; every record is of good form.
    Unpack(Vec<UnpackRecord>),
    /// Pack clusters.
    Pack(Clusters),
    /// Make ranges read as zeros. `exact`: the device must not grow.
    WriteZeroes { ranges: Vec<Range>, exact: bool },
    /// Give ranges back.
    Discard(Vec<Range>),
    /// Set the length.
    Resize(u64),
    /// The device does not know this request.
    Unknown,
}

impl Action {
    /// Whether everything before it has to be complete first, and it before everything behind.
    pub(super) fn is_barrier(&self) -> bool {
        matches!(self, Self::Flush | Self::Resize(_))
    }

    /// Whether the file has other bytes afterwards.
    pub(super) fn changes_file(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::Copy(_)
                | Self::Unpack(_)
                | Self::WriteZeroes { .. }
                | Self::Discard(_)
                | Self::Resize(_)
        )
    }

    /// How many list entries it holds in the host's memory.
    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Copy(records) => records.len(),
            Self::Compare(records, _) => records.len(),
            Self::Unpack(records) => records.len(),
            _ => 1,
        }
    }
}

/// Where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// One status byte.
    Byte(GuestAddress),
    /// A completion.
    Completion(GuestAddress),
}

/// A request of good form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// First descriptor, which names the request to the driver.
    pub(super) head: u16,
    pub(super) action: Action,
    pub(super) answer: Answer,
    /// Number of bytes that the driver lets the device write.
    pub(super) writable_bytes: u32,
}

/// Reads the request whose chain starts at descriptor `head` of a table.
pub(super) fn parse(memory: &DmaMemory, table: GuestAddress, size: u16, head: u16) -> Result<Request, Malformed> {
    let chain = Chain::walk(memory, table, size, head)?;
    let mut readable = Cursor { memory, spans: chain.readable };
    let mut kind_bytes = [0; 4];
    readable.peek(&mut kind_bytes)?;
    let kind = u32::from_le_bytes(kind_bytes);
    let writable_bytes =
        chain.writable.iter().try_fold(0u32, |sum, span| sum.checked_add(u32::try_from(span.length).ok()?));
    let writable_bytes = writable_bytes.ok_or(Malformed("a request has room for more than 4 GiB"))?;
    let vendor = kind & kind::VENDOR_BIT != 0;
    let answer_length = if vendor { Completion::SIZE_BYTES } else { 1 };
    let (answer, writable) = split_answer(chain.writable, answer_length)?;
    let (action, answer) = if vendor {
        (vendor_action(&mut readable, writable)?, Answer::Completion(answer))
    } else {
        (standard_action(&mut readable, writable)?, Answer::Byte(answer))
    };
    Ok(Request { head, action, answer, writable_bytes })
}

fn vendor_action(readable: &mut Cursor<'_>, writable: Vec<Span>) -> Result<Action, Malformed> {
    let header: VendorHeader = readable.take()?;
    let range = Range {
        offset: header.offset_bytes,
        length: header.length_bytes,
        may_unmap: header.flags & request_flag::MAY_UNMAP != 0,
    };
    if header.flags & !request_flag::MAY_UNMAP != 0 || header.reserved != 0 {
        return Err(Malformed("a request has unknown flags"));
    }
    let listed = matches!(header.kind, kind::COPY | kind::COMPARE | kind::UNPACK | kind::PACK);
    if header.record_count > MAX_RECORDS || (header.record_count != 0 && !listed) {
        return Err(Malformed("a request has too many records"));
    }
    let action = match header.kind {
        kind::READ_BYTES => {
            check_data(&writable, Some(range.length))?;
            return readable.end().map(|()| Action::Read { offset: range.offset, spans: writable, exact: false });
        }
        kind::WRITE_BYTES => {
            let spans = readable.rest();
            check_data(&spans, Some(range.length))?;
            Action::Write { offset: range.offset, spans, exact: false }
        }
        kind::COPY => Action::Copy(readable.records(header.record_count)?),
        kind::COMPARE => {
            let records = readable.records(header.record_count)?;
            let [span] = writable[..] else { return Err(Malformed("a comparison has no room for its verdicts")) };
            if verdict_count(&records)? != span.length as u64 {
                return Err(Malformed("a comparison has more or less room than verdicts"));
            }
            return readable.end().map(|()| Action::Compare(records, span.address));
        }
        kind::UNPACK => {
            let records = readable.records(header.record_count)?;
            check_unpack(&records)?;
            Action::Unpack(records)
        }
        kind::PACK => {
            let form = readable.take()?;
            let clusters = clusters(form, header.record_count, &readable.rest(), &writable)?;
            return readable.end().map(|()| Action::Pack(clusters));
        }
        kind::WRITE_ZEROES_BYTES => Action::WriteZeroes { ranges: vec![range], exact: false },
        kind::DISCARD_BYTES => Action::Discard(vec![range]),
        kind::RESIZE => Action::Resize(range.offset),
        kind::SYNC => Action::Flush,
        _ => return Ok(Action::Unknown),
    };
    no_room(&writable)?;
    readable.end()?;
    Ok(action)
}

/// Each record must be one that a machine can hold, and about bytes that its cluster has.
fn check_unpack(records: &[UnpackRecord]) -> Result<(), Malformed> {
    let is_good = |record: &UnpackRecord| {
        record.packed_bytes <= MAX_CLUSTER_BYTES
            && (1..=MAX_CLUSTER_BYTES).contains(&record.cluster_bytes)
            && record.length_bytes > 0
            && record.skip_bytes.checked_add(record.length_bytes).is_some_and(|end| end <= record.cluster_bytes)
    };
    if records.len() > MAX_UNPACK_RECORDS as usize || !records.iter().all(is_good) {
        return Err(Malformed("a list of packed clusters is impossible"));
    }
    Ok(())
}

/// Clusters to pack must be such as a machine can hold, and have places for all that comes of them.
fn clusters(
    PackRecord { codec, cluster_bytes }: PackRecord,
    count: u32,
    readable: &[Span],
    writable: &[Span],
) -> Result<Clusters, Malformed> {
    let (&[bytes], &[room]) = (readable, writable) else { return Err(Malformed("clusters to pack lie in pieces")) };
    let length = u64::from(count) * u64::from(cluster_bytes);
    let lengths_bytes = u64::from(count) * PackedLength::SIZE_BYTES as u64;
    let is_good = (1..=MAX_CLUSTER_BYTES).contains(&cluster_bytes)
        && (1..=u64::from(MAX_PACK_BYTES)).contains(&length)
        && bytes.length as u64 == length
        && room.length as u64 == length + lengths_bytes;
    if !is_good {
        return Err(Malformed("clusters to pack are impossible"));
    }
    let places = GuestAddress(room.address.0 + lengths_bytes);
    Ok(Clusters { codec, cluster_bytes, count: count as usize, bytes: bytes.address, lengths: room.address, places })
}

/// How many units a list of comparisons has.
fn verdict_count(records: &[CompareRecord]) -> Result<u64, Malformed> {
    let units = |record: &CompareRecord| match record.unit_bytes {
        0 => Err(Malformed("a comparison has units of no length")),
        unit_bytes => Ok(record.length_bytes.div_ceil(unit_bytes.into())),
    };
    let count = records.iter().try_fold(0, |sum: u64, record| Ok(sum.saturating_add(units(record)?)))?;
    if count <= u64::from(MAX_VERDICTS) { Ok(count) } else { Err(Malformed("a comparison has too many units")) }
}

fn standard_action(readable: &mut Cursor<'_>, writable: Vec<Span>) -> Result<Action, Malformed> {
    let header: StandardHeader = readable.take()?;
    let offset = || header.sector.checked_mul(SECTOR_BYTES).ok_or(Malformed("a sector number is out of range"));
    match header.kind {
        kind::IN => {
            check_sectors(&writable)?;
            readable.end()?;
            Ok(Action::Read { offset: offset()?, spans: writable, exact: true })
        }
        kind::OUT => {
            let spans = readable.rest();
            check_sectors(&spans)?;
            no_room(&writable)?;
            Ok(Action::Write { offset: offset()?, spans, exact: true })
        }
        kind::FLUSH => {
            no_room(&writable)?;
            Ok(Action::Flush)
        }
        kind::DISCARD | kind::WRITE_ZEROES => {
            no_room(&writable)?;
            let ranges = standard_ranges(readable)?;
            if header.kind == kind::DISCARD {
                Ok(Action::Discard(ranges))
            } else {
                Ok(Action::WriteZeroes { ranges, exact: true })
            }
        }
        _ => Ok(Action::Unknown),
    }
}

fn standard_ranges(readable: &mut Cursor<'_>) -> Result<Vec<Range>, Malformed> {
    let length = total(&readable.spans);
    let size = StandardRange::SIZE_BYTES as u64;
    if length == 0 || !length.is_multiple_of(size) || length / size > u64::from(MAX_STANDARD_RANGES) {
        return Err(Malformed("a list of ranges has an impossible length"));
    }
    let ranges: Vec<StandardRange> = readable.records(u32::try_from(length / size).unwrap_or(MAX_STANDARD_RANGES))?;
    ranges
        .iter()
        .map(|range| {
            if range.sector_count > MAX_STANDARD_SECTORS || range.flags & !request_flag::MAY_UNMAP != 0 {
                return Err(Malformed("a range is out of bounds"));
            }
            let offset = range.sector.checked_mul(SECTOR_BYTES).ok_or(Malformed("a sector number is out of range"))?;
            let length = u64::from(range.sector_count) * SECTOR_BYTES;
            Ok(Range { offset, length, may_unmap: range.flags & request_flag::MAY_UNMAP != 0 })
        })
        .collect()
}

fn check_data(spans: &[Span], length: Option<u64>) -> Result<(), Malformed> {
    let total = total(spans);
    if total > MAX_DATA_BYTES {
        return Err(Malformed("a request moves too many bytes"));
    }
    match length {
        Some(length) if length != total => Err(Malformed("a request's length does not match its descriptors")),
        _ => Ok(()),
    }
}

fn check_sectors(spans: &[Span]) -> Result<(), Malformed> {
    check_data(spans, None)?;
    if total(spans).is_multiple_of(SECTOR_BYTES) { Ok(()) } else { Err(Malformed("a request moves parts of sectors")) }
}

fn no_room(spans: &[Span]) -> Result<(), Malformed> {
    if spans.is_empty() { Ok(()) } else { Err(Malformed("a request has room for data that it does not ask for")) }
}

/// Cuts the answer's place off the end of what the device may write.
fn split_answer(mut writable: Vec<Span>, length: usize) -> Result<(GuestAddress, Vec<Span>), Malformed> {
    let last = writable.last_mut().ok_or(Malformed("a request has no room for an answer"))?;
    let rest = last.length.checked_sub(length).ok_or(Malformed("a request has no room for an answer"))?;
    let answer = GuestAddress(last.address.0 + rest as u64);
    last.length = rest;
    if rest == 0 {
        writable.pop();
    }
    Ok((answer, writable))
}
