//! One device of the driver: its queue, the memory for what waits in it, and its length.

mod codecs;
mod head;

use alloc::vec::Vec;

use instar_abi::block::{
    CompareRecord, Completion, CopyRecord, MAX_DATA_BYTES, MAX_RECORDS, MAX_VERDICTS, VendorHeader, ZEROS, kind,
    request_flag, status, verdict,
};
use instar_abi::job::device_flag;
use instar_abi::wire::Wire;
use instar_exec::{CompareSegment, CopySegment, DeviceId, Operation, StorageError, Verdict};

use super::Transport;
use super::memory::SharedMemory;
use super::ring::{Data, Ring};

/// Descriptors of a writable device's queue: 341 requests a doorbell.
const WRITABLE_QUEUE_SIZE: u16 = 1024;
/// Descriptors of a read-only device's queue: 85 reads a doorbell.
const READ_ONLY_QUEUE_SIZE: u16 = 256;
/// Bytes of queued writes between two doorbells.
const ARENA_BYTES: usize = 1 << 20;
/// Bytes that one doorbell may copy; the host reports progress only between doorbells.
const MAX_COPY_BYTES: u64 = 64 << 20;
const RECORD_BYTES: usize = CopyRecord::SIZE_BYTES;
/// Where the answers to a list of comparisons lie, behind the records.
const ANSWERS_AT: usize = MAX_RECORDS as usize * RECORD_BYTES;
/// What the system says when there is no better number: EIO.
const NO_BETTER_ERRNO: i32 = 5;

/// What a queued request was, for its error.
#[derive(Clone, Copy, Debug)]
struct Queued {
    operation: Operation,
    offset: u64,
}

/// A device that is in use.
#[derive(Debug)]
pub(super) struct Device {
    number: u32,
    ring: Ring,
    queued: Vec<Queued>,
    /// Bytes of queued writes; made when first needed.
    arena: Option<SharedMemory>,
    arena_used: usize,
    /// Records of the copy that is being collected, or of comparisons and their answers; made when first needed.
    records: Option<SharedMemory>,
    /// Clusters to be packed, and what they are packed to; made when first needed.
    packing: Option<SharedMemory>,
    record_count: usize,
    record_bytes: u64,
    length_bytes: u64,
    /// The first bytes, once they were read and until something is changed.
    head: Option<Vec<u8>>,
}

impl Device {
    /// A device that nothing was asked of yet.
    pub(super) fn new(transport: &dyn Transport, number: u32) -> Self {
        let state = transport.device_state(number);
        let writable = state.flags & device_flag::WRITABLE != 0;
        Self {
            number,
            ring: Ring::new(if writable { WRITABLE_QUEUE_SIZE } else { READ_ONLY_QUEUE_SIZE }),
            queued: Vec::new(),
            arena: None,
            arena_used: 0,
            records: None,
            packing: None,
            record_count: 0,
            record_bytes: 0,
            length_bytes: state.length_bytes,
            head: None,
        }
    }

    /// Length of the device with everything queued carried out.
    pub(super) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Fills a buffer that may lie anywhere. Settles first.
    pub(super) fn read(&mut self, t: &mut dyn Transport, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.settle(t)?;
        if self.read_from_head(t, offset, buffer)? { Ok(()) } else { self.read_now(t, offset, buffer) }
    }

    fn read_now(&mut self, t: &mut dyn Transport, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let reachable = t.reachable(buffer.as_ptr().addr() as u64, buffer.len());
        let step = if reachable { max_data_bytes() } else { ARENA_BYTES };
        let mut at = offset;
        for piece in buffer.chunks_mut(step) {
            let address =
                if reachable { piece.as_mut_ptr().expose_provenance() as u64 } else { self.arena().address(0) };
            let data = Data { address, length_bytes: short(piece.len()), device_writes: true };
            self.push(t, Operation::Read, at, request(kind::READ_BYTES, at, piece.len() as u64), Some(data))?;
            self.settle(t)?;
            if !reachable {
                self.arena().read(0, piece);
            }
            at = self.end(Operation::Read, at, piece.len() as u64)?;
        }
        // The device has written to the buffer behind the compiler's back.
        core::hint::black_box(buffer);
        Ok(())
    }

    /// Fills several buffers, with one doorbell for as many as the queue holds.
    pub(super) fn read_many(
        &mut self,
        t: &mut dyn Transport,
        ranges: &mut [(u64, &mut [u8])],
    ) -> Result<(), StorageError> {
        self.settle(t)?;
        for (offset, buffer) in ranges.iter_mut() {
            let (address, length) = (buffer.as_mut_ptr().expose_provenance() as u64, buffer.len());
            if length > max_data_bytes() || !t.reachable(address, length) {
                self.read(t, *offset, buffer)?;
                continue;
            }
            self.end(Operation::Read, *offset, length as u64)?;
            let data = Data { address, length_bytes: short(length), device_writes: true };
            self.push(t, Operation::Read, *offset, request(kind::READ_BYTES, *offset, length as u64), Some(data))?;
        }
        self.settle(t)?;
        // The device has written to the buffers behind the compiler's back.
        core::hint::black_box(ranges);
        Ok(())
    }

    /// Queues a write.
    pub(super) fn write(&mut self, t: &mut dyn Transport, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = self.end(Operation::Write, offset, bytes.len() as u64)?;
        self.head = None;
        let direct = bytes.len() > ARENA_BYTES / 2 && t.reachable(bytes.as_ptr().addr() as u64, bytes.len());
        let mut at = offset;
        for piece in bytes.chunks(if direct { max_data_bytes() } else { ARENA_BYTES }) {
            if !self.ring.has_room() || (!direct && self.arena_used + piece.len() > ARENA_BYTES) {
                self.settle(t)?;
            }
            let address = if direct {
                piece.as_ptr().expose_provenance() as u64
            } else {
                let used = self.arena_used;
                self.arena_used += piece.len();
                let arena = self.arena();
                arena.write(used, piece);
                arena.address(used)
            };
            let data = Data { address, length_bytes: short(piece.len()), device_writes: false };
            self.push(t, Operation::Write, at, request(kind::WRITE_BYTES, at, piece.len() as u64), Some(data))?;
            at += piece.len() as u64;
        }
        self.length_bytes = self.length_bytes.max(end);
        if direct { self.settle(t) } else { Ok(()) }
    }

    /// Queues zeros or a discard.
    pub(super) fn range(
        &mut self,
        t: &mut dyn Transport,
        operation: Operation,
        offset: u64,
        length: u64,
        may_unmap: bool,
    ) -> Result<(), StorageError> {
        let end = self.end(operation, offset, length)?;
        self.head = None;
        let number = if operation == Operation::Discard { kind::DISCARD_BYTES } else { kind::WRITE_ZEROES_BYTES };
        let mut header = request(number, offset, length);
        header.flags = if may_unmap { request_flag::MAY_UNMAP } else { 0 };
        self.push(t, operation, offset, header, None)?;
        if operation != Operation::Discard {
            self.length_bytes = self.length_bytes.max(end);
        }
        Ok(())
    }

    /// Queues copies; they are collected into lists.
    pub(super) fn copy(&mut self, t: &mut dyn Transport, segments: &[CopySegment]) -> Result<(), StorageError> {
        self.head = None;
        for segment in segments {
            let mut done = 0;
            while done < segment.length_bytes {
                if self.record_count == MAX_RECORDS as usize || self.record_bytes >= MAX_COPY_BYTES {
                    self.settle(t)?;
                }
                let room = MAX_COPY_BYTES - self.record_bytes;
                let length_bytes = (segment.length_bytes - done).min(room);
                let record = CopyRecord {
                    target_offset_bytes: self.end(Operation::Copy, segment.target_offset, done)?,
                    source_offset_bytes: self.end(Operation::Copy, segment.source_offset, done)?,
                    length_bytes,
                    source_device: segment.source.0,
                    reserved: 0,
                };
                let end = self.end(Operation::Copy, record.target_offset_bytes, length_bytes)?;
                let place = self.record_count * RECORD_BYTES;
                self.records().put(place, &record);
                self.record_count += 1;
                self.record_bytes += length_bytes;
                self.length_bytes = self.length_bytes.max(end);
                done += length_bytes;
            }
        }
        Ok(())
    }

    /// Has the host compare pieces of this device with others. Settles first.
    pub(super) fn compare(
        &mut self,
        t: &mut dyn Transport,
        segments: &[CompareSegment],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        self.settle(t)?;
        let (mut records, mut units) = (0, 0);
        for segment in segments {
            let mut done = 0;
            while done < segment.length_bytes {
                if records == MAX_RECORDS || units == MAX_VERDICTS {
                    self.ask(t, core::mem::take(&mut records), core::mem::take(&mut units), verdicts)?;
                }
                let unit_bytes = segment.unit_bytes.max(1);
                let room_bytes = u64::from(MAX_VERDICTS - units) * u64::from(unit_bytes);
                let length_bytes = (segment.length_bytes - done).min(room_bytes);
                let record = CompareRecord {
                    own_offset_bytes: self.end(Operation::Compare, segment.offset, done)?,
                    other_offset_bytes: self.end(Operation::Compare, segment.other_offset, done)?,
                    length_bytes,
                    other_device: segment.other.map_or(ZEROS, |other| other.0),
                    unit_bytes,
                };
                self.records().put(records as usize * RECORD_BYTES, &record);
                records += 1;
                // No more than there was room for.
                units += u32::try_from(length_bytes.div_ceil(unit_bytes.into())).unwrap_or(MAX_VERDICTS);
                done += length_bytes;
            }
        }
        self.ask(t, records, units, verdicts)
    }

    /// Sends a list of comparisons and takes the verdicts.
    fn ask(
        &mut self,
        t: &mut dyn Transport,
        records: u32,
        units: u32,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StorageError> {
        if records == 0 {
            return Ok(());
        }
        let mut header = request(kind::COMPARE, 0, 0);
        header.record_count = records;
        let list = Data {
            address: self.records().address(0),
            length_bytes: short(records as usize * RECORD_BYTES),
            device_writes: false,
        };
        let answers = Data { address: self.records().address(ANSWERS_AT), length_bytes: units, device_writes: true };
        self.ring.push_with_room(&header, list, answers);
        let offset = self.records().get::<CompareRecord>(0).own_offset_bytes;
        self.queued.push(Queued { operation: Operation::Compare, offset });
        self.ring(t)?;
        let mut answered = alloc::vec![0; units as usize];
        self.records().read(ANSWERS_AT, &mut answered);
        verdicts.extend(answered.iter().map(|answer| match *answer {
            verdict::EQUAL => Verdict::Equal,
            verdict::DIFFERS_FROM_ZEROS => Verdict::DiffersFromZeros,
            _ => Verdict::Differs,
        }));
        Ok(())
    }

    /// Sets the length. Settles first, and afterwards.
    pub(super) fn resize(&mut self, t: &mut dyn Transport, length: u64) -> Result<(), StorageError> {
        self.head = None;
        self.settle(t)?;
        self.push(t, Operation::Resize, length, request(kind::RESIZE, length, 0), None)?;
        self.settle(t)?;
        self.length_bytes = length;
        Ok(())
    }

    /// Completes everything queued and makes it durable; one doorbell for both.
    pub(super) fn flush(&mut self, t: &mut dyn Transport) -> Result<(), StorageError> {
        self.close_copy(t)?;
        self.push(t, Operation::Flush, 0, request(kind::SYNC, 0, 0), None)?;
        self.settle(t)
    }

    /// Completes everything queued.
    pub(super) fn settle(&mut self, t: &mut dyn Transport) -> Result<(), StorageError> {
        self.close_copy(t)?;
        self.ring(t)
    }

    fn ring(&mut self, t: &mut dyn Transport) -> Result<(), StorageError> {
        if self.ring.pending() == 0 {
            return Ok(());
        }
        let (number, queued, records) = (self.number, &self.queued, &self.records);
        let mut first = None;
        self.ring.ring(t, number, |place, completion| {
            if completion.status != u32::from(status::OK) && first.is_none() {
                first = queued.get(place).map(|queued| failure(number, *queued, completion, records.as_ref()));
            }
        });
        self.queued.clear();
        self.arena_used = 0;
        match first {
            None => Ok(()),
            Some(error) => {
                self.length_bytes = t.device_state(self.number).length_bytes;
                Err(error)
            }
        }
    }

    /// Puts the list of copies that is being collected into the queue.
    fn close_copy(&mut self, t: &mut dyn Transport) -> Result<(), StorageError> {
        let count = core::mem::take(&mut self.record_count);
        self.record_bytes = 0;
        if count == 0 {
            return Ok(());
        }
        let mut header = request(kind::COPY, 0, 0);
        header.record_count = short(count);
        let data = Data {
            address: self.records().address(0),
            length_bytes: short(count * RECORD_BYTES),
            device_writes: false,
        };
        self.push(t, Operation::Copy, 0, header, Some(data))
    }

    fn push(
        &mut self,
        t: &mut dyn Transport,
        operation: Operation,
        offset: u64,
        header: VendorHeader,
        data: Option<Data>,
    ) -> Result<(), StorageError> {
        if !self.ring.has_room() {
            self.ring(t)?;
        }
        self.ring.push(&header, data);
        self.queued.push(Queued { operation, offset });
        Ok(())
    }

    fn end(&self, operation: Operation, offset: u64, length: u64) -> Result<u64, StorageError> {
        // EFBIG, as the host would say.
        let error = StorageError { device: DeviceId(self.number), operation, offset, errno: 27 };
        offset.checked_add(length).ok_or(error)
    }

    fn arena(&mut self) -> &SharedMemory {
        self.arena.get_or_insert_with(|| SharedMemory::for_data(ARENA_BYTES))
    }

    fn records(&mut self) -> &SharedMemory {
        self.records.get_or_insert_with(|| SharedMemory::for_data(ANSWERS_AT + MAX_VERDICTS as usize))
    }
}

fn request(kind: u32, offset_bytes: u64, length_bytes: u64) -> VendorHeader {
    VendorHeader { kind, flags: 0, offset_bytes, length_bytes, record_count: 0, reserved: 0 }
}

fn failure(device: u32, queued: Queued, completion: &Completion, records: Option<&SharedMemory>) -> StorageError {
    let errno = if completion.errno == 0 { NO_BETTER_ERRNO } else { completion.errno };
    let place = completion.record as usize * RECORD_BYTES;
    let offset = match records {
        Some(records) if queued.operation == Operation::Copy && place + RECORD_BYTES <= records.length_bytes() => {
            records.get::<CopyRecord>(place).target_offset_bytes
        }
        _ => queued.offset,
    };
    StorageError { device: DeviceId(device), operation: queued.operation, offset, errno }
}

fn max_data_bytes() -> usize {
    usize::try_from(MAX_DATA_BYTES).unwrap_or(usize::MAX)
}

/// Lengths of single requests are bounded far below 4 GiB.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
