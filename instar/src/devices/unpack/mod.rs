//! Carries out lists of compressed clusters: packed bytes go into a machine that unpacks, and what comes out of it is written.
//!
//! Knows lengths and places, and nothing of what the bytes mean.

mod cut;

use std::io;

use instar_abi::block::UnpackRecord;
use instar_abi::codec_machine::{Batch, Entry, task};
use instar_abi::wire::Wire;

use cut::is_same_cluster;
pub(super) use cut::{Clusters, cut};

use super::backend::Backend;
use super::codec_machines::{CodecMachines, Slot};
use super::copy::Failed;
use super::pace::Pace;
use crate::vm::volatile_io;

/// From how many bytes on they are written past the page cache, or, where that cannot be, writing them to the disk is started at once.
const MIN_BULK_BYTES: u64 = 1 << 20;

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
            .lend(|slot| self.through(backends, own, slot, pace, &mut record))
            .map_err(|error| (record, error))
    }

    /// `record` is which one was being dealt with when something failed.
    fn through(
        &self,
        backends: &[Backend<'_>],
        own: usize,
        slot: &mut Slot,
        pace: &mut Pace<'_>,
        record: &mut usize,
    ) -> io::Result<()> {
        let entries = self.fill(backends, slot, record)?;
        slot.run()?;
        let mut batch = [0; Batch::SIZE_BYTES];
        slot.read_table(&mut batch)?;
        if Batch::get(&batch).done != entries {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        self.write(device(backends, own)?, own, slot, pace, record)
    }

    /// Puts the table and the packed bytes into a slot; returns how many entries the table has.
    fn fill(&self, backends: &[Backend<'_>], slot: &Slot, record: &mut usize) -> io::Result<u32> {
        let mut table = vec![0; Batch::SIZE_BYTES];
        let mut at = 0;
        for clusters in self.records.chunk_by(is_same_cluster) {
            let [first, ..] = clusters else { continue };
            let source = device(backends, usize::try_from(first.source_device).unwrap_or(usize::MAX))?;
            source.read(first.source_offset_bytes, &slot.packed(at, first.packed_bytes)?)?;
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
        slot.write_table(&table)?;
        Ok(count)
    }

    /// Writes what was unpacked; what lies together in memory and on the target goes in one piece.
    fn write(
        &self,
        target: &Backend<'_>,
        own: usize,
        slot: &Slot,
        pace: &mut Pace<'_>,
        record: &mut usize,
    ) -> io::Result<()> {
        let mut cluster_start = 0;
        let mut piece: Option<Piece> = None;
        for (place, part) in self.records.iter().enumerate() {
            if let Some(last) = place.checked_sub(1).map(|last| &self.records[last])
                && !is_same_cluster(last, part)
            {
                cluster_start += u64::from(last.cluster_bytes);
            }
            let next = Piece {
                from: cluster_start + u64::from(part.skip_bytes),
                to: part.target_offset_bytes,
                length: part.length_bytes,
            };
            piece = Some(match piece {
                Some(piece) if piece.goes_on_with(&next) => Piece { length: piece.length + next.length, ..piece },
                Some(ended) => {
                    ended.write(target, slot, pace, None)?;
                    *record = self.first + place;
                    next
                }
                None => next,
            });
            pace.counts = usize::try_from(part.source_device).is_ok_and(|number| number < own);
            pace.note_copied(part.length_bytes.into());
        }
        piece.map_or(Ok(()), |piece| piece.write(target, slot, pace, Some(self.stretch_end)))
    }
}

/// Bytes that lie together in a slot, counted from its first unpacked byte on, and on the target.
#[derive(Clone, Copy)]
struct Piece {
    from: u64,
    to: u64,
    length: u32,
}

impl Piece {
    fn end(&self) -> Option<u64> {
        self.to.checked_add(self.length.into())
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        self.from + u64::from(self.length) == next.from && self.end() == Some(next.to)
    }

    /// Writes it: where it is long, past the page cache, or so that it is on its way to the disk at once. `stretch_end` is up to
    /// where others are going to write behind it.
    fn write(&self, target: &Backend<'_>, slot: &Slot, pace: &Pace<'_>, stretch_end: Option<u64>) -> io::Result<()> {
        let bytes = slot.unpacked(self.from, self.length)?;
        let is_long = u64::from(self.length) >= MIN_BULK_BYTES;
        if is_long && !pace.is_limited() && target.write_bulk(self.to, &bytes, stretch_end)? {
            return Ok(());
        }
        target.write(self.to, &bytes)?;
        if is_long && target.writes_back_early() {
            volatile_io::start_writeback(target.file(), self.to, self.length.into());
        }
        Ok(())
    }
}

fn device<'b, 'f>(backends: &'b [Backend<'f>], number: usize) -> io::Result<&'b Backend<'f>> {
    backends.get(number).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}
