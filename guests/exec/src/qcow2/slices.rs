//! A bounded cache of L2 table slices: whole tables up to 64 KiB, pieces of larger ones.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_plan::planted::{self, Bug};

use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// The most clean bytes that are kept.
const CLEAN_BYTES_MAX: u64 = 4 << 20;
/// The most bytes that are read ahead at once.
const PREFETCH_BYTES_MAX: u64 = 256 << 10;
/// The most slices that are read ahead at once.
const PREFETCH_SLICES_MAX: usize = 64;
/// The longest slice.
const SLICE_BYTES_MAX: u64 = 64 << 10;

/// What has to happen to a slice before it may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing.
    Clean,
    /// It belongs to a table that is in use, and has to be written once what it refers to is durable.
    Dirty,
    /// It belongs to a table that nothing refers to yet, and has to be written before something does.
    New,
}

struct Slice {
    bytes: Vec<u8>,
    state: State,
    used: u64,
}

/// Slices by their host offset.
pub(super) struct Slices {
    layer: u32,
    device: DeviceId,
    slice_bytes: u64,
    slices: BTreeMap<u64, Slice>,
    /// How many of them are not clean.
    unwritten: usize,
    clock: u64,
}

impl Slices {
    /// For tables of `table_bytes` on `device`.
    pub(super) fn new(layer: u32, device: DeviceId, table_bytes: u64) -> Self {
        Self {
            layer,
            device,
            slice_bytes: table_bytes.min(SLICE_BYTES_MAX),
            slices: BTreeMap::new(),
            unwritten: 0,
            clock: 0,
        }
    }

    /// Length of a slice in bytes.
    pub(super) fn slice_bytes(&self) -> u64 {
        self.slice_bytes
    }

    /// The bytes of the slice at `offset`, which is a multiple of the slice length.
    pub(super) fn get(&mut self, storage: &mut dyn Storage, offset: u64) -> Result<&[u8]> {
        self.clock += 1;
        if !self.slices.contains_key(&offset) {
            self.make_room();
            let bytes = read_vec(storage, self.layer, self.device, offset, self.slice_bytes)?;
            self.slices.insert(offset, Slice { bytes, state: State::Clean, used: 0 });
        }
        let slice = self.slices.get_mut(&offset).expect("the slice was there or has just been put there");
        slice.used = self.clock;
        Ok(&slice.bytes)
    }

    /// Reads slices that are going to be wanted next, as far as they are not there, all at once.
    pub(super) fn prefetch(&mut self, storage: &mut dyn Storage, offsets: impl Iterator<Item = u64>) -> Result<()> {
        let missing: Vec<u64> = offsets
            .filter(|offset| !self.slices.contains_key(offset))
            .take(to_index(PREFETCH_BYTES_MAX / self.slice_bytes).min(PREFETCH_SLICES_MAX))
            .collect();
        let mut buffers = vec![vec![0; to_index(self.slice_bytes)]; missing.len()];
        let mut ranges: Vec<(u64, &mut [u8])> =
            missing.iter().copied().zip(buffers.iter_mut().map(|buffer| buffer.as_mut_slice())).collect();
        storage.read_many(self.device, &mut ranges).map_err(|error| Failure::storage(self.layer, error))?;
        if planted::is(Bug::StaleL2Window) {
            let first = buffers.first().cloned().unwrap_or_default();
            buffers.fill(first);
        }
        self.make_room();
        self.clock += 1;
        for (offset, bytes) in missing.into_iter().zip(buffers) {
            self.slices.insert(offset, Slice { bytes, state: State::Clean, used: self.clock });
        }
        Ok(())
    }

    /// Keeps a table that somebody else has read, if it is one slice and there is room.
    pub(super) fn keep(&mut self, offset: u64, table: Vec<u8>) {
        let is_slice = table.len() as u64 == self.slice_bytes;
        if is_slice && self.clean_bytes() < CLEAN_BYTES_MAX && !self.holds(offset) {
            self.slices.insert(offset, Slice { bytes: table, state: State::Clean, used: self.clock });
        }
    }

    /// Whether the slice at `offset` is in the cache.
    pub(super) fn holds(&self, offset: u64) -> bool {
        self.slices.contains_key(&offset)
    }

    /// The bytes of the slice at `offset`, to be changed.
    pub(super) fn get_mut(&mut self, storage: &mut dyn Storage, offset: u64) -> Result<&mut [u8]> {
        self.get(storage, offset)?;
        let slice = self.slices.get_mut(&offset).expect("the slice has just been read");
        if slice.state == State::Clean {
            slice.state = State::Dirty;
            self.unwritten += 1;
        }
        Ok(&mut slice.bytes)
    }

    /// Puts a slice of a new table into the cache.
    pub(super) fn insert_new(&mut self, offset: u64, bytes: Vec<u8>) {
        // New tables become clean ones when they are written: an image that gets many must not keep them all.
        self.make_room();
        self.clock += 1;
        let replaced = self.slices.insert(offset, Slice { bytes, state: State::New, used: self.clock });
        self.unwritten += usize::from(replaced.is_none_or(|slice| slice.state == State::Clean));
    }

    /// Puts an all-zero slice of a new table into the cache.
    pub(super) fn insert_zero(&mut self, offset: u64) {
        self.insert_new(offset, vec![0; to_index(self.slice_bytes)]);
    }

    /// Bytes that have to be written before they may be dropped.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.unwritten as u64 * self.slice_bytes
    }

    /// Writes the slices of new tables.
    pub(super) fn write_new(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.write(storage, State::New)
    }

    /// Writes the changed slices of tables that are in use; tells whether there were any.
    pub(super) fn write_dirty(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.write(storage, State::Dirty)
    }

    /// Whether slices of tables in use have changed.
    pub(super) fn has_dirty(&self) -> bool {
        self.slices.values().any(|slice| slice.state == State::Dirty)
    }

    fn write(&mut self, storage: &mut dyn Storage, state: State) -> Result<()> {
        for (offset, slice) in self.slices.iter_mut().filter(|(_, slice)| slice.state == state) {
            storage.write(self.device, *offset, &slice.bytes).map_err(|error| Failure::storage(self.layer, error))?;
            slice.state = State::Clean;
            self.unwritten -= 1;
        }
        Ok(())
    }

    fn clean_bytes(&self) -> u64 {
        (self.slices.len() - self.unwritten) as u64 * self.slice_bytes
    }

    /// Drops the clean slices that were not used for longest, until another one fits.
    fn make_room(&mut self) {
        if self.clean_bytes() < CLEAN_BYTES_MAX {
            return;
        }
        let mut ages: Vec<(u64, u64)> = self
            .slices
            .iter()
            .filter(|(_, slice)| slice.state == State::Clean)
            .map(|(offset, slice)| (slice.used, *offset))
            .collect();
        ages.sort_unstable();
        // Half of them at once, so that a long walk does not sort again for every slice.
        for (_, offset) in &ages[..ages.len().div_ceil(2)] {
            self.slices.remove(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;

    #[test]
    fn tables_that_were_new_do_not_pile_up() {
        let mut storage = MemoryStorage { devices: vec![Vec::new()] };
        let mut slices = Slices::new(0, DeviceId(0), SLICE_BYTES_MAX);
        for table in 0..1000 {
            slices.insert_zero(table * SLICE_BYTES_MAX);
            slices.write_new(&mut storage).expect("written");
            assert!(slices.slices.len() as u64 * SLICE_BYTES_MAX <= CLEAN_BYTES_MAX + SLICE_BYTES_MAX);
        }
    }
}
