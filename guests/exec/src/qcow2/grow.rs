//! Growth of a qcow2 image's disk: a longer L1 table where it is needed, and zeros over what would show through.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::header::MAX_L1_BYTES;
use instar_plan::extent::{Extent, Source};

use super::target::Qcow2Target;
use crate::bytes::read_vec;
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;
use crate::unpack;

/// Header bytes from the virtual size to the end of the L1 table's offset, rewritten together: they lie in one sector.
const FIELDS_START: u64 = 24;

impl Qcow2Target {
    /// As [`Target::grow`].
    pub(super) fn grow_disk(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        size_bytes: u64,
    ) -> Result<()> {
        let old_size_bytes = self.size_bytes();
        if size_bytes <= old_size_bytes {
            return Ok(());
        }
        let geometry = self.image.geometry;
        let entries = geometry.l1_entries_for(size_bytes);
        let shows_through = below.first().map_or(0, |layer| layer.size_bytes().min(size_bytes));
        let cluster_end = geometry.clusters_for(old_size_bytes) << geometry.cluster_bits;
        let needs_zero_clusters = shows_through > old_size_bytes && size_bytes > cluster_end;
        // Version 2 has no zero clusters to hide the backing file with, and its snapshots do not know their own size.
        let needs_version_3 = needs_zero_clusters || self.image.header.snapshot_count != 0;
        if entries * 8 > MAX_L1_BYTES || (needs_version_3 && geometry.version < 3) {
            return Err(Failure {
                errno: 95,
                ..Failure::new(error_kind::JOB, self.image.layer, "Operation not supported")
            });
        }
        let longer_bitmaps = self.lengthen_bitmaps(storage, size_bytes)?;
        let count = u32::try_from(entries).unwrap_or(u32::MAX);
        if count > self.image.header.l1_entries {
            self.move_l1(storage, count)?;
            self.write_size(storage, old_size_bytes)?;
        }
        self.image.header.virtual_size_bytes = size_bytes;
        // What lies below must be hidden before the new size shows it, and so must old bytes in the last cluster.
        let hidden_end = if shows_through > old_size_bytes {
            shows_through.next_multiple_of(geometry.cluster_size_bytes()).min(size_bytes)
        } else if self.holds_bytes(storage, old_size_bytes, cluster_end.min(size_bytes))? {
            cluster_end.min(size_bytes)
        } else {
            old_size_bytes
        };
        let mut start = old_size_bytes;
        while start < hidden_end {
            let window = self.window_bytes();
            let end = (start / window * window + window).min(hidden_end);
            self.put(
                storage,
                below,
                &[Extent { guest_offset: start, length_bytes: end - start, source: Source::Zero }],
            )?;
            if self.is_under_pressure() {
                self.make_visible(storage)?;
            }
            start = end;
        }
        self.make_visible(storage)?;
        self.fit_data_file(storage, size_bytes)?;
        if let Some(longer) = &longer_bitmaps {
            self.suspend_bitmaps(storage, longer)?;
        }
        self.write_size(storage, size_bytes)?;
        longer_bitmaps.map_or(Ok(()), |longer| self.resume_bitmaps(storage, longer))
    }

    /// Makes an external data file exactly as long as the disk: it may be the disk to others, byte for byte. Where it was longer, no disk
    /// of either size shows that part.
    fn fit_data_file(&self, storage: &mut dyn Storage, size_bytes: u64) -> Result<()> {
        let device = self.image.data_device;
        if !self.image.geometry.external_data || storage.length_bytes(device) == size_bytes {
            return Ok(());
        }
        storage.resize(device, size_bytes).map_err(|error| self.storage_failure(error))?;
        storage.flush(device).map_err(|error| self.storage_failure(error))
    }

    /// Whether the image itself holds bytes in a range within one cluster that are not zero.
    fn holds_bytes(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<bool> {
        let mut own = Vec::new();
        self.image.map(storage, start, end, &mut own)?;
        for piece in own {
            let bytes = match piece.source {
                Source::Absent | Source::Zero => continue,
                Source::Data { device, host_offset } => {
                    read_vec(storage, self.image.layer, DeviceId(device), host_offset, piece.length_bytes)?
                }
                Source::Compressed(source) => {
                    let unpacked = unpack::cluster(storage, &source)?;
                    unpack::part(&source, &unpacked, piece.length_bytes)?.to_vec()
                }
            };
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies the L1 table to a place where it can be `count` entries long. The header does not name it yet.
    fn move_l1(&mut self, storage: &mut dyn Storage, count: u32) -> Result<()> {
        let geometry = self.image.geometry;
        let old_clusters = geometry.clusters_for(u64::from(self.image.header.l1_entries) * 8);
        let old_first = geometry.cluster_index(self.image.header.l1_offset);
        let clusters = geometry.clusters_for(u64::from(count) * 8);
        let first = self.allocator.append(storage, &mut self.refcounts, clusters)?;
        let bytes = self.image.l1.to_bytes(count);
        self.image.header.l1_offset = first << geometry.cluster_bits;
        self.image.header.l1_entries = count;
        storage
            .write(self.image.device, self.image.header.l1_offset, &bytes)
            .map_err(|error| self.storage_failure(error))?;
        self.note_end(self.image.header.l1_offset + bytes.len() as u64);
        self.make_owned(storage)?;
        self.releases.extend(old_first..old_first + old_clusters);
        Ok(())
    }

    /// Writes a virtual size and where the L1 table is, durably.
    fn write_size(&self, storage: &mut dyn Storage, size_bytes: u64) -> Result<()> {
        let header = &self.image.header;
        let mut fields = [0; 24];
        fields[..8].copy_from_slice(&size_bytes.to_be_bytes());
        fields[8..12].copy_from_slice(&(header.crypt_method as u32).to_be_bytes());
        fields[12..16].copy_from_slice(&header.l1_entries.to_be_bytes());
        fields[16..].copy_from_slice(&header.l1_offset.to_be_bytes());
        storage.write(self.image.device, FIELDS_START, &fields).map_err(|error| self.storage_failure(error))?;
        self.barrier(storage)
    }
}
