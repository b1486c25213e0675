//! Refcounts of an image that is written: reads, changes, and growth of the table and its blocks.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::Header;
use instar_formats::qcow2::geometry::Geometry;
use instar_formats::qcow2::refcount;

use crate::bytes::{read_vec, to_index, used_bytes};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// The most bytes of clean blocks that are kept.
const CLEAN_BYTES_MAX: u64 = 8 << 20;
/// Header offset of the table's offset and length, which lie in one sector.
const TABLE_PLACE_FIELDS: u64 = 48;
/// Bits 9 to 63 of a refcount table entry are the block's offset.
const BLOCK_OFFSET_MASK: u64 = !0x1ff;

struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

/// The refcount table and the blocks that were looked at.
pub(super) struct Refcounts {
    layer: u32,
    device: DeviceId,
    geometry: Geometry,
    /// Host offset of the table.
    table_offset: u64,
    /// Offsets of the blocks, 0 where there is none; up to the last block, which in most files is the first.
    table: Vec<u64>,
    /// How many entries the table's clusters have room for.
    table_entries: usize,
    /// Indexes of table entries that have changed.
    dirty_entries: Vec<usize>,
    blocks: BTreeMap<usize, Block>,
}

impl Refcounts {
    /// Reads the table.
    pub(super) fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId, header: &Header) -> Result<Self> {
        let geometry = header.geometry();
        let length_bytes = u64::from(header.refcount_table_clusters) * geometry.cluster_size_bytes();
        let table_offset = header.refcount_table_offset;
        let end = storage.length_bytes(device);
        if table_offset.checked_add(8).is_none_or(|first| first > end) {
            return Err(Failure::new(
                error_kind::OPEN,
                layer,
                "Could not read reference count table: Input/output error",
            ));
        }
        let bytes = read_vec(storage, layer, device, table_offset, length_bytes)?;
        let entry = |raw: &[u8]| u64::from_be_bytes(raw.try_into().expect("chunks of eight")) & BLOCK_OFFSET_MASK;
        let used = bytes.chunks_exact(8).rposition(|raw| entry(raw) != 0).map_or(0, |last| last + 1);
        let table: Vec<u64> = bytes.chunks_exact(8).take(used).map(entry).collect();
        for (index, offset) in table.iter().enumerate() {
            if !geometry.is_cluster_aligned(*offset) {
                return Err(corrupt(
                    layer,
                    format_args!("Refblock offset {offset:#x} unaligned (reftable index: {index:#x})"),
                ));
            }
            if *offset != 0 && *offset >= end {
                return Err(corrupt(
                    layer,
                    format_args!(
                        "Refblock at {offset:#x} lies beyond the end of the file (reftable index: {index:#x})"
                    ),
                ));
            }
        }
        Ok(Self {
            layer,
            device,
            geometry,
            table_offset,
            table,
            table_entries: bytes.len() / 8,
            dirty_entries: Vec::new(),
            blocks: BTreeMap::new(),
        })
    }

    /// The clusters that the table itself takes up, as host offset and number.
    pub(super) fn table_clusters(&self) -> (u64, u64) {
        (self.table_offset, self.geometry.clusters_for(self.table_entries as u64 * 8))
    }

    /// The host offsets of all blocks.
    pub(super) fn block_offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.table.iter().copied().filter(|offset| *offset != 0)
    }

    /// The refcount of a host cluster; 0 where no block covers it.
    pub(super) fn get(&mut self, storage: &mut dyn Storage, cluster: u64) -> Result<u64> {
        let (table_index, index) = self.place(cluster);
        if self.table.get(table_index).is_none_or(|offset| *offset == 0) {
            return Ok(0);
        }
        let order = self.geometry.refcount_order;
        Ok(refcount::read(&self.block(storage, table_index)?.bytes, order, index))
    }

    /// The first host cluster behind all that have a refcount.
    pub(super) fn end(&mut self, storage: &mut dyn Storage) -> Result<u64> {
        let (entries, order) = (self.geometry.refcount_block_entries(), self.geometry.refcount_order);
        for table_index in (0..self.table.len()).rev().filter(|index| self.table[*index] != 0).collect::<Vec<_>>() {
            let bytes = &self.block(storage, table_index)?.bytes;
            // Behind the last byte that is not 0 there is none.
            let most = (used_bytes(bytes) * 8).div_ceil(1 << order);
            if let Some(last) = (0..most).rev().find(|index| refcount::read(bytes, order, *index) != 0) {
                return Ok(table_index as u64 * entries + last as u64 + 1);
            }
        }
        Ok(0)
    }

    /// Whether a block covers a host cluster.
    pub(super) fn covers(&self, cluster: u64) -> bool {
        self.table.get(self.place(cluster).0).is_some_and(|offset| *offset != 0)
    }

    /// Whether the table has an entry for the block of a host cluster.
    pub(super) fn table_reaches(&self, cluster: u64) -> bool {
        self.place(cluster).0 < self.table_entries
    }

    /// Number of clusters that one block covers.
    pub(super) fn block_entries(&self) -> u64 {
        self.geometry.refcount_block_entries()
    }

    /// Cluster size in bytes.
    pub(super) fn cluster_size_bytes(&self) -> u64 {
        self.geometry.cluster_size_bytes()
    }

    /// Sets the refcount of a host cluster that a block covers.
    pub(super) fn set(&mut self, storage: &mut dyn Storage, cluster: u64, value: u64) -> Result<()> {
        if value > self.geometry.refcount_max() {
            let bits = self.geometry.refcount_bits();
            return Err(corrupt(
                self.layer,
                format_args!("the refcount of cluster {cluster} does not fit into {bits} bits"),
            ));
        }
        let (table_index, index) = self.place(cluster);
        let order = self.geometry.refcount_order;
        let block = self.block(storage, table_index)?;
        refcount::write(&mut block.bytes, order, index, value);
        block.dirty = true;
        Ok(())
    }

    /// Makes the host cluster at `offset` the block that covers `cluster`; all its refcounts are 0.
    pub(super) fn add_block(&mut self, cluster: u64, offset: u64) {
        let (table_index, _) = self.place(cluster);
        if self.table.len() <= table_index {
            self.table.resize(table_index + 1, 0);
        }
        self.table[table_index] = offset;
        self.dirty_entries.push(table_index);
        let bytes = vec![0; to_index(self.geometry.cluster_size_bytes())];
        self.blocks.insert(table_index, Block { bytes, dirty: true });
    }

    /// Makes the table `clusters` long in memory, so that blocks for its new place can be added before it moves there.
    pub(super) fn lengthen_table(&mut self, clusters: u64) {
        self.table_entries = to_index(clusters * self.geometry.cluster_size_bytes() / 8);
    }

    /// Moves the table to `offset`. The old one stays on disk, for the caller to release once the header names the new one.
    pub(super) fn move_table(&mut self, offset: u64) {
        self.table_offset = offset;
        self.dirty_entries = (0..self.table_entries).collect();
    }

    /// Bytes that have to be written before they may be dropped.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.blocks.values().filter(|block| block.dirty).count() as u64 * self.geometry.cluster_size_bytes()
    }

    /// Writes the blocks that have changed.
    pub(super) fn write_blocks(&mut self, storage: &mut dyn Storage) -> Result<()> {
        for (table_index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            storage
                .write(self.device, self.table[*table_index], &block.bytes)
                .map_err(|error| Failure::storage(self.layer, error))?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Whether blocks have been added: their table entries may only be written once the blocks are durable.
    pub(super) fn table_has_changed(&self) -> bool {
        !self.dirty_entries.is_empty()
    }

    /// Writes the table entries that have changed.
    pub(super) fn write_table(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.dirty_entries.sort_unstable();
        self.dirty_entries.dedup();
        // Runs of neighbours in one request: a table that has moved is dirty as a whole.
        for run in self.dirty_entries.chunk_by(|left, right| left + 1 == *right) {
            let entry = |index: &usize| self.table.get(*index).copied().unwrap_or(0).to_be_bytes();
            let bytes: Vec<u8> = run.iter().flat_map(entry).collect();
            storage
                .write(self.device, self.table_offset + run[0] as u64 * 8, &bytes)
                .map_err(|error| Failure::storage(self.layer, error))?;
        }
        self.dirty_entries.clear();
        Ok(())
    }

    /// Makes the header name the table's place. The table must be durable there.
    pub(super) fn write_table_place(&self, storage: &mut dyn Storage) -> Result<()> {
        let (offset, clusters) = self.table_clusters();
        let clusters = u32::try_from(clusters)
            .map_err(|_| Failure::new(error_kind::JOB, self.layer, "the refcount table would become too large"))?;
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&offset.to_be_bytes());
        fields[8..].copy_from_slice(&clusters.to_be_bytes());
        storage.write(self.device, TABLE_PLACE_FIELDS, &fields).map_err(|error| Failure::storage(self.layer, error))
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let entries = self.geometry.refcount_block_entries();
        // A cluster number is below 2^55, so its table index fits.
        (to_index(cluster / entries), to_index(cluster % entries))
    }

    fn block(&mut self, storage: &mut dyn Storage, table_index: usize) -> Result<&mut Block> {
        if !self.blocks.contains_key(&table_index) {
            let size = self.geometry.cluster_size_bytes();
            if self.blocks.len() as u64 * size > CLEAN_BYTES_MAX {
                self.blocks.retain(|_, block| block.dirty);
            }
            let bytes = read_vec(storage, self.layer, self.device, self.table[table_index], size)?;
            self.blocks.insert(table_index, Block { bytes, dirty: false });
        }
        Ok(self.blocks.get_mut(&table_index).expect("the block was there or has just been put there"))
    }
}

fn corrupt(layer: u32, text: impl core::fmt::Display) -> Failure {
    Failure::new(error_kind::CORRUPT, layer, text)
}
