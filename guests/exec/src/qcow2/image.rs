//! A qcow2 image as a layer: its header, its L1 table, and where each range of the disk lies.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::qcow2::HeaderError;
use instar_formats::qcow2::entry::{L2Entry, Subcluster};
use instar_formats::qcow2::geometry::Geometry;
use instar_formats::qcow2::header::PREFIX_BYTES;
use instar_formats::qcow2::{Access, CompressionType, Header};
use instar_plan::extent::{self, Codec, CompressedSource, Extent, Source};

use super::l1::L1Table;
use super::slices::Slices;
use crate::bytes::{read_vec, to_index};
use crate::layer::{Layer, Result};
use crate::report::{ENOTSUP, Failure};
use crate::storage::{DeviceId, Storage};

/// The size of clusters where nobody asks for another: what the first cluster of a file most likely takes, in bytes.
const USUAL_CLUSTER_BYTES: u64 = 64 << 10;

/// An open qcow2 image.
pub struct Image {
    /// Number of the layer in the job, for messages.
    pub(super) layer: u32,
    /// Device of the image file.
    pub(super) device: DeviceId,
    /// Device that holds guest data: the external data file, or the image file itself; where it is encrypted, as plain data.
    pub(super) data_device: DeviceId,
    /// The header as it was read.
    pub(super) header: Header,
    /// Sizes.
    pub(super) geometry: Geometry,
    /// The active L1 table.
    pub(super) l1: L1Table,
    /// L2 tables in use.
    pub(super) slices: Slices,
}

impl Image {
    /// Opens the image on `device`.
    ///
    /// # Errors
    /// With qemu-img's words if the header is invalid or the L1 table cannot be read.
    pub fn open(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        data_device: Option<DeviceId>,
        access: Access,
    ) -> Result<Self> {
        let header = read_header(storage, layer, device, access)?;
        if header.has_external_data_file() && data_device.is_none() {
            return Err(Failure::new(error_kind::OPEN, layer, "'data-file' is required for this image"));
        }
        Self::with_header(storage, layer, device, data_device, header)
    }

    /// The image with this header, whose data may be out of reach.
    ///
    /// # Errors
    /// If the L1 table cannot be read.
    pub(super) fn with_header(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        data_device: Option<DeviceId>,
        header: Header,
    ) -> Result<Self> {
        let geometry = header.geometry();
        let data_device = data_device.unwrap_or(device);
        let l1 = L1Table::read(storage, layer, device, header.l1_offset, header.l1_entries)?;
        l1.check(layer, &geometry, storage.length_bytes(device))?;
        Ok(Self {
            layer,
            device,
            // Without its key there is no such device: noise must not get into another image.
            data_device: if header.is_encrypted() { data_device.plain() } else { data_device },
            geometry,
            l1,
            slices: Slices::new(layer, device, geometry.cluster_size_bytes()),
            header,
        })
    }

    /// A finding about this image's metadata.
    pub(super) fn corrupt(&self, text: impl core::fmt::Display) -> Failure {
        Failure::new(error_kind::CORRUPT, self.layer, text)
    }

    /// Host offset of the L2 table that describes `guest_offset`; `None` where there is none.
    pub(super) fn l2_table(&self, guest_offset: u64) -> Option<u64> {
        self.l1.get(self.geometry.l1_index(guest_offset)).l2_offset()
    }

    /// Offset of the slice, and index within it, of the entry for `guest_offset` in the table at `table`.
    pub(super) fn slice_of(&self, table: u64, guest_offset: u64) -> (u64, usize) {
        let entry_bytes = self.geometry.l2_entry_bytes();
        let byte = self.geometry.l2_index(guest_offset) * entry_bytes;
        let slice_bytes = self.slices.slice_bytes();
        (table + byte / slice_bytes * slice_bytes, to_index(byte % slice_bytes / entry_bytes))
    }

    /// Those of the entries of `count` clusters from the one at `guest_offset` on that are not empty, each with its distance from the
    /// first; all `count` are in the same slice of the table at `table`.
    fn entries(
        &mut self,
        storage: &mut dyn Storage,
        table: u64,
        guest_offset: u64,
        count: u64,
    ) -> Result<Vec<(u64, L2Entry)>> {
        let (slice, first) = self.slice_of(table, guest_offset);
        if !self.slices.holds(slice) && self.slices.slice_bytes() == self.geometry.cluster_size_bytes() {
            // Whoever walks a disk of many small tables wants the next ones soon.
            let tables = self.l1.tables_from(self.geometry.l1_index(guest_offset)).map(|(_, table)| table);
            self.slices.prefetch(storage, tables)?;
        }
        let (geometry, layer) = (self.geometry, self.layer);
        let entry_bytes = to_index(geometry.l2_entry_bytes());
        let bytes = self.slices.get(storage, slice)?;
        let piece = &bytes[first * entry_bytes..][..to_index(count) * entry_bytes];
        let mut found = Vec::new();
        L2Entry::for_each_found(&geometry, piece, |index, entry| {
            entry.check(&geometry).map_err(|error| {
                let l2_index = geometry.l2_index(guest_offset) + index as u64;
                let text = format_args!("{error} (L2 offset: {table:#x}, L2 index: {l2_index:#x})");
                Failure::new(error_kind::CORRUPT, layer, text)
            })?;
            found.push((index as u64, entry));
            Ok::<_, Failure>(())
        })?;
        Ok(found)
    }

    /// Calls `visit` with every run of clusters in `start..end` (whole clusters) that share an L2 slice: the guest offset of the first,
    /// their number, and those of their entries that are not empty, each with its distance from the first.
    pub(super) fn walk(
        &mut self,
        storage: &mut dyn Storage,
        start: u64,
        end: u64,
        mut visit: impl FnMut(&Self, u64, u64, &[(u64, L2Entry)]) -> Result<()>,
    ) -> Result<()> {
        let clusters_per_slice = self.slices.slice_bytes() / self.geometry.l2_entry_bytes();
        let size = self.geometry.cluster_size_bytes();
        let mut offset = start / size * size;
        while offset < end {
            let Some(table) = self.l2_table(offset) else {
                let next =
                    (self.geometry.l1_index(offset) + 1).saturating_mul(self.geometry.l2_coverage_bytes()).min(end);
                visit(self, offset, (next - offset).div_ceil(size), &[])?;
                offset = next;
                continue;
            };
            let left_in_slice = clusters_per_slice - self.geometry.l2_index(offset) % clusters_per_slice;
            let count = left_in_slice.min((end - offset).div_ceil(size));
            let entries = self.entries(storage, table, offset, count)?;
            visit(self, offset, count, &entries)?;
            offset = offset.saturating_add(count * size);
        }
        Ok(())
    }

    /// How compressed clusters are packed.
    pub(super) fn codec(&self) -> Codec {
        match self.header.compression_type {
            CompressionType::Zlib => Codec::Deflate,
            CompressionType::Zstd => Codec::Zstd,
        }
    }

    fn push_cluster(&self, guest_offset: u64, entry: L2Entry, extents: &mut Vec<Extent>) {
        if entry.is_compressed() || !self.geometry.extended_l2 {
            let length_bytes = self.geometry.cluster_size_bytes();
            return extent::push(extents, Extent { guest_offset, length_bytes, source: self.source(entry, 0) });
        }
        let length_bytes = self.geometry.subcluster_size_bytes();
        for index in 0..self.geometry.subclusters() {
            let guest_offset = guest_offset + u64::from(index) * length_bytes;
            extent::push(extents, Extent { guest_offset, length_bytes, source: self.source(entry, index) });
        }
    }

    /// Where subcluster `index` of a cluster comes from; without subclusters there is only the first.
    fn source(&self, entry: L2Entry, index: u32) -> Source {
        match entry.subcluster(&self.geometry, index) {
            Subcluster::Unallocated => Source::Absent,
            Subcluster::Zero => Source::Zero,
            Subcluster::Data => match entry.compressed_range(&self.geometry) {
                Some(range) => Source::Compressed(CompressedSource {
                    layer: self.layer,
                    device: self.device.0,
                    host_offset: range.host_offset,
                    length_bytes: range.length_bytes,
                    cluster_size_bytes: self.geometry.cluster_size_bytes(),
                    codec: self.codec(),
                    offset_in_cluster: 0,
                }),
                None => {
                    let offset = u64::from(index) * self.geometry.subcluster_size_bytes();
                    let host_offset = entry.host_offset(&self.geometry).unwrap_or(0) + offset;
                    Source::Data { device: self.data_device.0, host_offset }
                }
            },
        }
    }
}

fn push_absent(guest_offset: u64, length_bytes: u64, extents: &mut Vec<Extent>) {
    if length_bytes > 0 {
        extent::push(extents, Extent { guest_offset, length_bytes, source: Source::Absent });
    }
}

impl Layer for Image {
    fn size_bytes(&self) -> u64 {
        self.header.virtual_size_bytes
    }

    fn map(&mut self, storage: &mut dyn Storage, start: u64, end: u64, extents: &mut Vec<Extent>) -> Result<()> {
        let mut whole = Vec::new();
        let size = self.geometry.cluster_size_bytes();
        self.walk(storage, start, end, |image, offset, count, entries| {
            let mut end = offset;
            for (index, entry) in entries.iter().filter(|(_, entry)| !entry.is_unallocated()) {
                let place = offset + index * size;
                push_absent(end, place - end, &mut whole);
                image.push_cluster(place, *entry, &mut whole);
                end = place + size;
            }
            push_absent(end, offset + count * size - end, &mut whole);
            Ok(())
        })?;
        for piece in whole.iter().filter_map(|piece| piece.clipped(start, end)) {
            extent::push(extents, piece);
        }
        Ok(())
    }

    fn next_mapped(&self, from: u64) -> u64 {
        let mapped = self.l1.tables_from(self.geometry.l1_index(from)).next();
        mapped.map_or(u64::MAX, |(index, _)| from.max(index * self.geometry.l2_coverage_bytes()))
    }

    fn cluster_size_bytes(&self) -> u64 {
        self.geometry.cluster_size_bytes()
    }
}

/// The failure for a header that cannot be used.
pub(crate) fn header_failure(layer: u32, error: &HeaderError) -> Failure {
    let errno = if error.is_unsupported() { ENOTSUP } else { 0 };
    Failure::new(error_kind::OPEN, layer, error).with_errno(errno)
}

/// Reads and checks a header.
///
/// # Errors
/// With qemu-img's words if it is invalid.
pub(crate) fn read_header(storage: &mut dyn Storage, layer: u32, device: DeviceId, access: Access) -> Result<Header> {
    let refused = |error: HeaderError| Failure::new(error_kind::OPEN, layer, error);
    let length_bytes = storage.length_bytes(device);
    let mut bytes = read_vec(storage, layer, device, 0, length_bytes.min(PREFIX_BYTES as u64))?;
    let needed_bytes = Header::needed_bytes(&bytes).map_err(refused)?;
    if needed_bytes > bytes.len() {
        bytes = read_vec(storage, layer, device, 0, length_bytes.min(needed_bytes as u64))?;
    }
    Header::parse(&bytes, access).map_err(refused)
}

/// Reads and checks a header; also gives the whole cluster that it lies in, as far as the file has it.
///
/// # Errors
/// With qemu-img's words if it is invalid.
pub(crate) fn read_first_cluster(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    access: Access,
) -> Result<(Header, Vec<u8>)> {
    let refused = |error| header_failure(layer, &error);
    let length_bytes = storage.length_bytes(device);
    let mut first_cluster = read_vec(storage, layer, device, 0, length_bytes.min(USUAL_CLUSTER_BYTES))?;
    let prefix = &first_cluster[..first_cluster.len().min(PREFIX_BYTES)];
    let cluster_bytes = Header::first_cluster_bytes(prefix).map_err(refused)? as u64;
    if cluster_bytes > USUAL_CLUSTER_BYTES {
        first_cluster = read_vec(storage, layer, device, 0, length_bytes.min(cluster_bytes))?;
    }
    first_cluster.truncate(to_index(cluster_bytes));
    let header = Header::parse(&first_cluster, access).map_err(refused)?;
    Ok((header, first_cluster))
}
