//! Carries out lists of compressed clusters: packed bytes go into a machine that unpacks, and what comes out of it is written.
//!
//! Knows lengths and places, and nothing of what the bytes mean.

use std::io;

use instar_abi::block::UnpackRecord;
use instar_abi::codec_machine::{
    Batch, Entry, MAX_ENTRIES, PACKED_BYTES, PACKED_START, TABLE_START, UNPACKED_BYTES, UNPACKED_START, task,
};
use instar_abi::wire::Wire;
use vm_memory::{Bytes, GuestAddress};

use super::backend::Backend;
use super::codec_machines::{CodecMachine, CodecMachines, fault, slice};
use super::copy::Failed;
use super::pace::Pace;
use crate::vm::{DmaMemory, volatile_io};

/// About how much is unpacked in one go, so that several machines can share a list: a place to write, and a read of a processor's
/// cache.
const BATCH_BYTES: u64 = 1 << 20;
/// From how many bytes on writing them to the disk is started at once.
const MIN_WRITEBACK_BYTES: u64 = 1 << 20;

/// Cuts a list into batches; each is told with the number of its first record and of bytes to unpack.
pub(super) fn cut<'r>(records: &'r [UnpackRecord], mut act: impl FnMut(usize, &'r [UnpackRecord], u64)) {
    let mut at = 0;
    while let Some(first) = records.get(at) {
        let (mut end, mut entries) = (at + 1, 1);
        let (mut packed, mut unpacked) = (u64::from(first.packed_bytes), u64::from(first.cluster_bytes));
        while let Some(next) = records.get(end) {
            if !is_same_cluster(&records[end - 1], next) {
                entries += 1;
                packed += u64::from(next.packed_bytes);
                unpacked += u64::from(next.cluster_bytes);
                if entries > MAX_ENTRIES || packed > PACKED_BYTES || unpacked > BATCH_BYTES.min(UNPACKED_BYTES) {
                    unpacked -= u64::from(next.cluster_bytes);
                    break;
                }
            }
            end += 1;
        }
        act(at, &records[at..end], unpacked);
        at = end;
    }
}

/// Whether two records are about parts of one cluster.
fn is_same_cluster(left: &UnpackRecord, right: &UnpackRecord) -> bool {
    let cluster = |record: &UnpackRecord| {
        let UnpackRecord { source_device, source_offset_bytes, packed_bytes, cluster_bytes, codec, .. } = *record;
        (source_device, source_offset_bytes, packed_bytes, cluster_bytes, codec)
    };
    cluster(left) == cluster(right)
}

/// A batch that [`cut`] has made: the records, and the number of the first one in its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clusters<'r> {
    pub(super) first: usize,
    pub(super) records: &'r [UnpackRecord],
}

impl Clusters<'_> {
    /// Unpacks the batch to device `own`.
    ///
    /// # Errors
    /// The system's; `EBADMSG` for bytes that are not what the codec packs; `ENODEV` for a device that is not there, and
    /// where no machine is left; `EACCES` for a target that is read-only.
    pub(super) fn unpack(
        &self,
        backends: &[Backend<'_>],
        own: usize,
        codec_machines: &CodecMachines,
        pace: &mut Pace<'_>,
    ) -> Result<(), Failed> {
        let mut record = self.first;
        codec_machines
            .lend(|machine| self.through(backends, own, machine, pace, &mut record))
            .map_err(|error| (record, error))
    }

    /// `record` is which one was being dealt with when something failed.
    fn through(
        &self,
        backends: &[Backend<'_>],
        own: usize,
        machine: &mut CodecMachine,
        pace: &mut Pace<'_>,
        record: &mut usize,
    ) -> io::Result<()> {
        let entries = self.fill(backends, machine.memory(), record)?;
        machine.run()?;
        let mut batch = [0; Batch::SIZE_BYTES];
        machine.memory().read_slice(&mut batch, GuestAddress(TABLE_START)).map_err(|_| fault())?;
        if Batch::get(&batch).done != entries {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        self.write(device(backends, own)?, own, machine.memory(), pace, record)
    }

    /// Puts the table and the packed bytes into a machine's memory; returns how many entries the table has.
    fn fill(&self, backends: &[Backend<'_>], memory: &DmaMemory, record: &mut usize) -> io::Result<u32> {
        let mut table = vec![0; Batch::SIZE_BYTES];
        let mut at = PACKED_START;
        for clusters in self.records.chunk_by(is_same_cluster) {
            let [first, ..] = clusters else { continue };
            let source = device(backends, usize::try_from(first.source_device).unwrap_or(usize::MAX))?;
            source.read(first.source_offset_bytes, &slice(memory, at, first.packed_bytes)?)?;
            at += u64::from(first.packed_bytes);
            let UnpackRecord { codec, packed_bytes, cluster_bytes, .. } = *first;
            let start = table.len();
            table.resize(start + Entry::SIZE_BYTES, 0);
            Entry { codec, packed_bytes, cluster_bytes, reserved: 0 }.put(&mut table[start..]);
            *record += clusters.len();
        }
        *record = self.first;
        let count = u32::try_from((table.len() - Batch::SIZE_BYTES) / Entry::SIZE_BYTES).unwrap_or(u32::MAX);
        Batch { count, done: 0, task: task::UNPACK, reserved: 0 }.put(&mut table);
        memory.write_slice(&table, GuestAddress(TABLE_START)).map_err(|_| fault())?;
        Ok(count)
    }

    /// Writes what was unpacked; what lies together in memory and on the target goes in one piece.
    fn write(
        &self,
        target: &Backend<'_>,
        own: usize,
        memory: &DmaMemory,
        pace: &mut Pace<'_>,
        record: &mut usize,
    ) -> io::Result<()> {
        let mut cluster_start = UNPACKED_START;
        let mut piece: Option<(u64, u64, u32)> = None;
        for (place, part) in self.records.iter().enumerate() {
            if let Some(last) = place.checked_sub(1).map(|last| &self.records[last])
                && !is_same_cluster(last, part)
            {
                cluster_start += u64::from(last.cluster_bytes);
            }
            let start = cluster_start + u64::from(part.skip_bytes);
            piece = match piece {
                Some((from, to, length))
                    if from + u64::from(length) == start
                        && to.checked_add(length.into()) == Some(part.target_offset_bytes) =>
                {
                    Some((from, to, length + part.length_bytes))
                }
                ended => {
                    write_piece(target, memory, ended)?;
                    *record = self.first + place;
                    Some((start, part.target_offset_bytes, part.length_bytes))
                }
            };
            pace.counts = usize::try_from(part.source_device).is_ok_and(|number| number < own);
            pace.note_copied(part.length_bytes.into());
        }
        write_piece(target, memory, piece)
    }
}

/// Writes a piece of memory, if there is one: where it lies, where it goes, and how long it is.
fn write_piece(target: &Backend<'_>, memory: &DmaMemory, piece: Option<(u64, u64, u32)>) -> io::Result<()> {
    let Some((from, to, length)) = piece else { return Ok(()) };
    target.write(to, &slice(memory, from, length)?)?;
    if u64::from(length) >= MIN_WRITEBACK_BYTES && target.writes_back_early() {
        volatile_io::start_writeback(target.file(), to, length.into());
    }
    Ok(())
}

fn device<'b, 'f>(backends: &'b [Backend<'f>], number: usize) -> io::Result<&'b Backend<'f>> {
    backends.get(number).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use instar_abi::block::codec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_record_is_in_one_batch_that_a_machine_can_hold(
            shapes in proptest::collection::vec((0u64..4, 0u32..3 << 19, 1u32..=2 << 20), 0..400),
        ) {
            let record = |(source_offset_bytes, packed_bytes, cluster_bytes)| UnpackRecord {
                target_offset_bytes: 0,
                source_offset_bytes,
                source_device: 0,
                packed_bytes,
                cluster_bytes,
                skip_bytes: 0,
                length_bytes: 1,
                codec: codec::ZSTD,
            };
            let records: Vec<UnpackRecord> = shapes.into_iter().flat_map(|shape| [record(shape), record(shape)]).collect();
            let mut next = 0;
            cut(&records, |first, batch, unpacked_bytes| {
                assert_eq!(first, next);
                next += batch.len();
                let clusters: Vec<&UnpackRecord> = batch.chunk_by(is_same_cluster).map(|parts| &parts[0]).collect();
                let sum = |bytes: fn(&UnpackRecord) -> u32| clusters.iter().map(|it| u64::from(bytes(it))).sum::<u64>();
                assert!(clusters.len() <= MAX_ENTRIES as usize && sum(|it| it.packed_bytes) <= PACKED_BYTES);
                assert!(sum(|it| it.cluster_bytes) <= UNPACKED_BYTES);
                assert_eq!(sum(|it| it.cluster_bytes), unpacked_bytes);
            });
            prop_assert_eq!(next, records.len());
        }
    }
}
