//! Packs grains, for extents that hold them compressed.

use alloc::vec;
use alloc::vec::Vec;

use instar_formats::vmdk::{Compression, SECTOR_BYTES};
use instar_plan::extent::{Extent, Source};
use miniz_oxide::deflate::compress_to_vec_zlib;

use crate::bytes::to_index;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::unpack;

/// How hard to pack; what zlib's default is called there.
const LEVEL: u8 = 6;

/// The bytes of one grain as they stand in the file: marker, packed bytes, zeros up to the end of the sector.
///
/// `pieces` have no `Absent` in them; what they leave open at the end of the grain is zeros. `disk_start` is where on the
/// extent the grain begins.
///
/// # Errors
/// If a device refuses, or what is packed in a piece does not unpack.
pub(super) fn pack(
    storage: &mut dyn Storage,
    layer: u32,
    compression: Compression,
    grain_size_bytes: u64,
    extent_offset: u64,
    pieces: &[Extent],
) -> Result<Vec<u8>> {
    let start = pieces.first().map_or(0, |piece| piece.guest_offset);
    let mut bytes = vec![0; to_index(grain_size_bytes)];
    for piece in pieces {
        let first = to_index(piece.guest_offset - start);
        let room = &mut bytes[first..first + to_index(piece.length_bytes)];
        match piece.source {
            Source::Absent | Source::Zero => {}
            Source::Data { device, host_offset } => {
                storage.read(DeviceId(device), host_offset, room).map_err(|error| Failure::storage(layer, error))?
            }
            Source::Compressed(source) => {
                let unpacked = unpack::cluster(storage, &source)?;
                room.copy_from_slice(unpack::part(&source, &unpacked, piece.length_bytes)?);
            }
        }
    }
    let packed = compress_to_vec_zlib(&bytes, LEVEL);
    let mut stored = Vec::with_capacity(packed.len() + to_index(SECTOR_BYTES));
    if compression.has_markers {
        stored.extend_from_slice(&(extent_offset / SECTOR_BYTES).to_le_bytes());
        stored.extend_from_slice(&u32::try_from(packed.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    stored.extend_from_slice(&packed);
    stored.resize(stored.len().next_multiple_of(to_index(SECTOR_BYTES)), 0);
    Ok(stored)
}
