//! Has clusters packed: they go from the guest's memory into a codec machine, and what comes out of it goes back.
//!
//! Knows lengths and places, and nothing of what the bytes mean.

use std::io;

use instar_abi::block::PackedLength;
use instar_abi::codec_machine::{Batch, Entry, MAX_ENTRIES, task};
use instar_abi::wire::Wire;
use vm_memory::{Bytes, GuestAddress};

use super::codec_machines::{CodecMachines, Slot, fault, slice};
use crate::vm::DmaMemory;

/// About how much is packed in one go, so that several machines can share what there is.
const BATCH_BYTES: usize = 256 << 10;

/// Clusters that lie one behind the other in the guest's memory, with a place for the length and one for the bytes that each is packed
/// to. The parser has seen that all of them lie in memory that devices may reach, and that no cluster is longer than a machine can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clusters {
    /// One of [`instar_abi::block::codec`].
    pub(super) codec: u32,
    pub(super) cluster_bytes: u32,
    pub(super) count: usize,
    pub(super) bytes: GuestAddress,
    pub(super) lengths: GuestAddress,
    pub(super) places: GuestAddress,
}

impl Clusters {
    /// Number of bytes to pack.
    pub(super) fn length(&self) -> usize {
        self.count.saturating_mul(self.size())
    }

    fn size(&self) -> usize {
        usize::try_from(self.cluster_bytes).unwrap_or(usize::MAX)
    }

    /// Cuts them into parts for one machine each.
    pub(super) fn parts(self) -> impl Iterator<Item = Self> {
        let step = (BATCH_BYTES / self.size().max(1)).clamp(1, MAX_ENTRIES as usize);
        (0..self.count).step_by(step).map(move |first| {
            let after = |start: GuestAddress, size: usize| GuestAddress(start.0.saturating_add((first * size) as u64));
            Self {
                count: step.min(self.count - first),
                bytes: after(self.bytes, self.size()),
                lengths: after(self.lengths, PackedLength::SIZE_BYTES),
                places: after(self.places, self.size()),
                ..self
            }
        })
    }

    /// Packs one part.
    ///
    /// # Errors
    /// The machine's; `ENODEV` where none is left; `EBADMSG` where it does not do what it was asked for.
    pub(super) fn pack(&self, memory: &DmaMemory, machines: &CodecMachines) -> io::Result<()> {
        machines.lend(|slot| self.through(memory, slot))
    }

    fn through(&self, memory: &DmaMemory, slot: &mut Slot) -> io::Result<()> {
        let cluster_bytes = self.cluster_bytes;
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        let mut table = vec![0; Batch::SIZE_BYTES + self.count * Entry::SIZE_BYTES];
        Batch { count, done: 0, task: task::PACK, reserved: 0 }.put(&mut table);
        for entry in table[Batch::SIZE_BYTES..].chunks_exact_mut(Entry::SIZE_BYTES) {
            Entry { codec: self.codec, packed_bytes: 0, cluster_bytes, reserved: 0 }.put(entry);
        }
        let length = u32::try_from(self.length()).map_err(|_| fault())?;
        slice(memory, self.bytes.0, length)?.copy_to_volatile_slice(slot.unpacked(0, length)?);
        slot.write_table(&table)?;
        slot.run()?;
        slot.read_table(&mut table)?;
        if Batch::get(&table).done != count {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        self.take(&table[Batch::SIZE_BYTES..], memory, slot)
    }

    /// Hands over what a machine has packed. Its lengths are as hostile as the clusters were.
    fn take(&self, entries: &[u8], memory: &DmaMemory, slot: &Slot) -> io::Result<()> {
        let mut from = 0;
        let mut to = self.places.0;
        let mut lengths = Vec::with_capacity(self.count * PackedLength::SIZE_BYTES);
        for entry in entries.chunks_exact(Entry::SIZE_BYTES).map(Entry::get) {
            let bytes = entry.packed_bytes;
            if bytes >= self.cluster_bytes {
                return Err(io::Error::from_raw_os_error(libc::EBADMSG));
            }
            if bytes > 0 {
                slot.packed(from, bytes)?.copy_to_volatile_slice(slice(memory, to, bytes)?);
            }
            lengths.extend_from_slice(&bytes.to_le_bytes());
            from += u64::from(bytes);
            to += u64::from(self.cluster_bytes);
        }
        memory.write_slice(&lengths, self.lengths).map_err(|_| fault())
    }
}
