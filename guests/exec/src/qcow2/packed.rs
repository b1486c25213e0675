//! Packed clusters of an image that is written: one behind the other, several to a host cluster, each of which counts one
//! reference for every packed cluster that has bytes in it.
//!
//! Source: qcow2 format document, sections "Cluster mapping" and "Compressed Clusters Descriptor".

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::entry::L2Entry;

use super::target::Qcow2Target;
use crate::bytes::to_index;
use crate::layer::Result;
use crate::pack::Packer;
use crate::report::Failure;
use crate::storage::Storage;

/// Packed bytes that may wait for being written.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// "Operation not supported".
const ENOTSUP: i32 = 95;

/// Where packed clusters end, and what packs them.
#[derive(Default)]
pub(super) struct PackedEnd {
    /// For where the devices do not pack; made when first needed.
    packer: Option<Packer>,
    /// Host offset behind the last packed byte; a multiple of the cluster size where no cluster is open.
    offset: u64,
    /// Bytes that end there and have not been written.
    waiting: Vec<u8>,
}

impl Qcow2Target {
    /// Whether the image can have compressed clusters at all.
    ///
    /// # Errors
    /// If its data lies in an external file.
    pub(crate) fn check_packing(&self) -> Result<()> {
        if self.image.geometry.external_data {
            return Err(Failure {
                errno: ENOTSUP,
                ..Failure::new(error_kind::STORAGE, self.image.layer, "Operation not supported")
            });
        }
        Ok(())
    }

    /// Packs clusters that lie one behind the other in `bytes`; `None` stands for those that would not be shorter.
    ///
    /// # Errors
    /// If a device refuses.
    pub(crate) fn pack(&mut self, storage: &mut dyn Storage, bytes: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
        let (codec, size) = (self.image.codec(), to_index(self.image.geometry.cluster_size_bytes()));
        let packed =
            storage.pack(self.image.device, codec, size, bytes).map_err(|error| self.storage_failure(error))?;
        Ok(packed.unwrap_or_else(|| {
            let packer = self.packed_end.packer.get_or_insert_default();
            bytes.chunks_exact(size).map(|cluster| packer.pack(codec, cluster).map(<[u8]>::to_vec)).collect()
        }))
    }

    /// Gives a guest cluster its packed bytes, which are fewer than a cluster has; tells whether there was a place for
    /// them. As with [`crate::target::Target::put`], tables do not show them before they are durable.
    ///
    /// # Errors
    /// If a device refuses.
    pub(crate) fn put_packed(&mut self, storage: &mut dyn Storage, cluster: u64, packed: &[u8]) -> Result<bool> {
        let geometry = self.image.geometry;
        let length = packed.len() as u64;
        // Asked before anything is allocated: the next place may be no lower than the end of the image.
        let highest = (self.allocator.end() + 2) << geometry.cluster_bits;
        if L2Entry::compressed(&geometry, highest, length).is_none() {
            return Ok(false);
        }
        // The table first, so that packed bytes are what the file ends with.
        self.own_l2_table(storage, cluster << geometry.cluster_bits)?;
        let offset = self.place_packed(storage, length)?;
        if offset != self.packed_end.offset || self.packed_end.waiting.len() >= WAITING_BYTES_MAX {
            self.write_packed(storage)?;
        }
        self.packed_end.waiting.extend_from_slice(packed);
        self.packed_end.offset = offset + length;
        self.note_end(offset + length);
        let Some(entry) = L2Entry::compressed(&geometry, offset, length) else { return Ok(false) };
        self.replace(storage, cluster, entry)?;
        Ok(true)
    }

    /// Finds a place for packed bytes, with a reference for every host cluster that they touch.
    fn place_packed(&mut self, storage: &mut dyn Storage, length: u64) -> Result<u64> {
        let geometry = self.image.geometry;
        let end = self.packed_end.offset;
        let room = end.next_multiple_of(geometry.cluster_size_bytes()) - end;
        let open = geometry.cluster_index(end);
        let references = if room == 0 { 0 } else { self.refcounts.get(storage, open)? };
        let can_share = room != 0 && references < geometry.refcount_max();
        if can_share && length <= room {
            self.refcounts.set(storage, open, references + 1)?;
            return Ok(end);
        }
        let (next, _) = self.allocator.allocate(storage, &mut self.refcounts)?;
        if can_share && next == open + 1 {
            // The allocation may have added a refcount block, but never changes the refcount of the open cluster.
            self.refcounts.set(storage, open, references + 1)?;
            return Ok(end);
        }
        Ok(next << geometry.cluster_bits)
    }

    /// Hands the packed bytes that wait to the storage.
    pub(super) fn write_packed(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let end = &mut self.packed_end;
        if !end.waiting.is_empty() {
            let start = end.offset - end.waiting.len() as u64;
            let written = storage.write(self.image.device, start, &end.waiting);
            end.waiting.clear();
            written.map_err(|error| self.storage_failure(error))?;
        }
        Ok(())
    }
}
