//! A sparse extent: its grain directory in memory, its grain tables through a window, and where each range lies.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::header::GRAIN_MARKER_BYTES;
use instar_formats::vmdk::{Compression, Geometry, GrainEntry, SECTOR_BYTES, SparseHeader};
use instar_plan::extent::{self, Codec, CompressedSource, Extent, Source};

use super::describe::read_sparse_header;
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// How much of the file is read at once when a grain table is needed: tables mostly lie side by side.
const WINDOW_BYTES: u64 = 64 << 10;
/// The longest compressed grain, a limit of instar: packed and unpacked it is held in memory.
const PACKED_GRAIN_BYTES_MAX: u64 = 4 << 20;

/// An open sparse extent. Offsets of the disk are relative to the extent's start.
pub(super) struct Sparse {
    /// Number of the layer in the job, for messages.
    pub(super) layer: u32,
    /// Device of the extent's file.
    pub(super) device: DeviceId,
    /// The header as it was read.
    pub(super) header: SparseHeader,
    /// Sectors of the grain tables; 0 where there is none.
    pub(super) directory: Vec<u32>,
    /// Tables that differ from what the file holds, by their index.
    pub(super) changed: BTreeMap<u64, Vec<u8>>,
    /// First byte behind everything that the file holds, or will hold.
    pub(super) end_bytes: u64,
    window: Vec<u8>,
    window_offset: u64,
}

impl Sparse {
    /// Opens the extent on `device`.
    ///
    /// # Errors
    /// With qemu-img's words if the header is invalid; if directory or tables lie beyond the end of the file.
    pub(super) fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Self> {
        let header = read_sparse_header(storage, layer, device)?;
        if header.compression.is_some() && header.geometry.grain_size_bytes > PACKED_GRAIN_BYTES_MAX {
            let text = "compressed vmdk grains of more than 4 MiB cannot be read";
            return Err(Failure::new(error_kind::UNSUPPORTED, layer, text));
        }
        let directory = read_directory(storage, layer, device, &header, header.directory_offset)?;
        let end_bytes = storage.length_bytes(device);
        Ok(Self {
            layer,
            device,
            header,
            directory,
            changed: BTreeMap::new(),
            end_bytes,
            window: Vec::new(),
            window_offset: 0,
        })
    }

    /// Sizes.
    pub(super) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// A finding about this extent's metadata.
    pub(super) fn corrupt(&self, text: impl core::fmt::Display) -> Failure {
        Failure::new(error_kind::CORRUPT, self.layer, text)
    }

    /// The bytes of a grain table; `None` where there is none.
    pub(super) fn table(&mut self, storage: &mut dyn Storage, index: u64) -> Result<Option<&[u8]>> {
        if self.changed.contains_key(&index) {
            return Ok(self.changed.get(&index).map(Vec::as_slice));
        }
        let sector = self.directory.get(to_index(index)).copied().unwrap_or(0);
        if sector == 0 {
            return Ok(None);
        }
        let (offset, length) = (u64::from(sector) * SECTOR_BYTES, to_index(self.geometry().table_bytes()));
        let held = |window: &Vec<u8>, start: u64| {
            let skip = usize::try_from(offset.checked_sub(start)?).ok()?;
            (skip + length <= window.len()).then_some(skip)
        };
        let skip = match held(&self.window, self.window_offset) {
            Some(skip) => skip,
            None => {
                self.window = read_vec(storage, self.layer, self.device, offset, WINDOW_BYTES)?;
                self.window_offset = offset;
                0
            }
        };
        Ok(Some(&self.window[skip..skip + length]))
    }

    /// Forgets what was read of the tables: the file has changed.
    pub(super) fn forget_window(&mut self) {
        self.window = Vec::new();
    }

    /// The entries of `count` grains from `first` on; grains without a table are unallocated.
    pub(super) fn entries(&mut self, storage: &mut dyn Storage, first: u64, count: u64) -> Result<Vec<GrainEntry>> {
        let geometry = self.geometry();
        let mut entries = Vec::with_capacity(to_index(count));
        let mut grain = first;
        while grain < first + count {
            let start = geometry.entry_index(grain);
            let here = (geometry.table_entries - start).min(first + count - grain);
            match self.table(storage, geometry.table_index(grain))? {
                None => entries.resize(entries.len() + to_index(here), GrainEntry::Unallocated),
                Some(table) => {
                    let raw = table[to_index(start * 4)..to_index((start + here) * 4)].chunks_exact(4);
                    entries.extend(raw.map(|raw| {
                        GrainEntry::decode(&geometry, u32::from_le_bytes(raw.try_into().expect("chunks of four")))
                    }));
                }
            }
            grain += here;
        }
        Ok(entries)
    }

    /// Appends the extents of `start..end`, which begin on the disk at `disk_start + start`.
    pub(super) fn map(
        &mut self,
        storage: &mut dyn Storage,
        disk_start: u64,
        start: u64,
        end: u64,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let geometry = self.geometry();
        let mut offset = start;
        while offset < end {
            let table = geometry.table_index(geometry.grain_index(offset));
            let next = (table + 1).saturating_mul(geometry.table_coverage_bytes()).min(end);
            if self.table(storage, table)?.is_none() {
                let absent =
                    Extent { guest_offset: disk_start + offset, length_bytes: next - offset, source: Source::Absent };
                extent::push(extents, absent);
            } else {
                let first = geometry.grain_index(offset);
                let entries = self.entries(storage, first, geometry.grains_for(next) - first)?;
                for (grain, entry) in (first..).zip(entries) {
                    let whole = Extent {
                        guest_offset: disk_start + geometry.grain_start(grain),
                        length_bytes: geometry.grain_size_bytes,
                        source: self.source(grain, entry)?,
                    };
                    extents_push_clipped(extents, &whole, disk_start + offset, disk_start + next);
                }
            }
            offset = next;
        }
        Ok(())
    }

    /// Where the bytes of a whole grain come from.
    fn source(&self, grain: u64, entry: GrainEntry) -> Result<Source> {
        let Some(host_offset) = entry.host_offset() else {
            return Ok(if entry == GrainEntry::Zeroed { Source::Zero } else { Source::Absent });
        };
        if host_offset >= self.end_bytes {
            return Err(self.corrupt(format_args!(
                "grain offset {host_offset:#x} beyond the end of the file (grain: {grain:#x})"
            )));
        }
        Ok(match self.header.compression {
            None => Source::Data { device: self.device.0, host_offset },
            Some(Compression { has_markers }) => {
                let grain_size_bytes = self.geometry().grain_size_bytes;
                let packed_offset = host_offset + if has_markers { GRAIN_MARKER_BYTES } else { 0 };
                Source::Compressed(CompressedSource {
                    layer: self.layer,
                    device: self.device.0,
                    host_offset: packed_offset,
                    // Nothing that packs sensibly needs more; how much it is stands in the stream itself.
                    length_bytes: (2 * grain_size_bytes).min(self.end_bytes.saturating_sub(packed_offset)),
                    cluster_size_bytes: grain_size_bytes,
                    codec: Codec::Zlib,
                    offset_in_cluster: 0,
                })
            }
        })
    }

    /// As [`crate::layer::Layer::next_mapped`], relative to the extent's start.
    pub(super) fn next_mapped(&self, from: u64) -> Option<u64> {
        let geometry = self.geometry();
        let first = geometry.table_index(geometry.grain_index(from));
        let distance = self.directory.iter().skip(to_index(first)).position(|sector| *sector != 0)?;
        Some(if distance == 0 { from } else { (first + distance as u64) * geometry.table_coverage_bytes() })
    }

    /// The bytes of a table, to be changed; the table exists.
    pub(super) fn table_mut(&mut self, storage: &mut dyn Storage, index: u64) -> Result<&mut [u8]> {
        if !self.changed.contains_key(&index) {
            let length = to_index(self.geometry().table_bytes());
            let bytes = self.table(storage, index)?.map_or_else(|| vec![0; length], <[u8]>::to_vec);
            self.changed.insert(index, bytes);
        }
        Ok(self.changed.get_mut(&index).expect("the table was there or has just been put there"))
    }
}

fn extents_push_clipped(extents: &mut Vec<Extent>, whole: &Extent, start: u64, end: u64) {
    if let Some(piece) = whole.clipped(start, end) {
        extent::push(extents, piece);
    }
}

/// Reads a grain directory, and checks that all of it and every table lie inside the file.
pub(super) fn read_directory(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    header: &SparseHeader,
    offset: u64,
) -> Result<Vec<u32>> {
    let file_length_bytes = storage.length_bytes(device);
    let length_bytes = header.geometry.directory_entries() * 4;
    if offset.checked_add(length_bytes).is_none_or(|end| end > file_length_bytes) {
        let text = format_args!("grain directory offset {offset:#x} beyond the end of the file");
        return Err(Failure::new(error_kind::CORRUPT, layer, text));
    }
    let bytes = read_vec(storage, layer, device, offset, length_bytes)?;
    let directory: Vec<u32> =
        bytes.chunks_exact(4).map(|raw| u32::from_le_bytes(raw.try_into().expect("chunks of four"))).collect();
    for (index, sector) in directory.iter().enumerate().filter(|(_, sector)| **sector != 0) {
        let table_offset = u64::from(*sector) * SECTOR_BYTES;
        if table_offset + header.geometry.table_bytes() > file_length_bytes {
            let text = format_args!(
                "grain table offset {table_offset:#x} beyond the end of the file (directory index: {index:#x})"
            );
            return Err(Failure::new(error_kind::CORRUPT, layer, text));
        }
    }
    Ok(directory)
}
