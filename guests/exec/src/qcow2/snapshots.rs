//! What else lies in a qcow2 image besides the active tables: snapshots, bitmaps, the LUKS header.

use alloc::vec::Vec;
use core::fmt;

use instar_formats::qcow2::bitmap::{self, Bitmap, BitmapDirectory};
use instar_formats::qcow2::snapshot::{self, SnapshotTable};

use super::image::Image;
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::storage::Storage;

/// How much of a table is read at once, unless an entry is longer.
const READ_BYTES: u64 = 4096;

/// A range of an image file that holds metadata.
pub(super) struct MetadataRange {
    /// Host offset in bytes.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) length_bytes: u64,
    /// What lies there, for messages.
    pub(super) what: &'static str,
}

/// Offset and number of entries of every snapshot's L1 table.
pub(super) fn l1_tables(storage: &mut dyn Storage, image: &Image) -> Result<Vec<(u64, u32)>> {
    Ok(snapshots(storage, image)?.0)
}

/// Everything that is neither an active table, nor a snapshot's, nor data.
pub(super) fn other_metadata(storage: &mut dyn Storage, image: &Image) -> Result<Vec<MetadataRange>> {
    let mut ranges = Vec::new();
    let mut push = |offset, length_bytes, what| ranges.push(MetadataRange { offset, length_bytes, what });
    let (_, table_bytes) = snapshots(storage, image)?;
    if table_bytes != 0 {
        push(image.header.snapshots_offset, table_bytes, "snapshot table");
    }
    if let Some(pointer) = &image.header.extensions.crypto_header {
        push(pointer.offset, pointer.length_bytes, "LUKS header");
    }
    if let Some(pointer) = &image.header.extensions.bitmaps {
        push(pointer.directory_offset, pointer.directory_size_bytes, "bitmap directory");
        for found in bitmaps(storage, image)? {
            push(found.table_offset, u64::from(found.table_entries) * 8, "bitmap table");
            for offset in bitmap_table(storage, image, &found)?
                .into_iter()
                .map(bitmap_cluster_offset)
                .filter(|offset| *offset != 0)
            {
                push(offset, image.geometry.cluster_size_bytes(), "bitmap");
            }
        }
    }
    Ok(ranges)
}

/// Host offset of a bitmap's cluster from its table entry; 0 where there is none.
pub(super) fn bitmap_cluster_offset(entry: u64) -> u64 {
    entry & 0x00ff_ffff_ffff_fe00
}

/// Reads a bitmap's table.
pub(super) fn bitmap_table(storage: &mut dyn Storage, image: &Image, bitmap: &Bitmap) -> Result<Vec<u64>> {
    let bytes = read_vec(storage, image.layer, image.device, bitmap.table_offset, u64::from(bitmap.table_entries) * 8)?;
    Ok(bytes.chunks_exact(8).map(|raw| u64::from_be_bytes(raw.try_into().expect("chunks of eight"))).collect())
}

/// The bitmaps of an image, in the order of the directory.
pub(super) fn bitmaps(storage: &mut dyn Storage, image: &Image) -> Result<Vec<Bitmap>> {
    Ok(placed_bitmaps(storage, image)?.into_iter().map(|(_, bitmap)| bitmap).collect())
}

/// The bitmaps of an image, and where their entries lie in the file.
pub(super) fn placed_bitmaps(storage: &mut dyn Storage, image: &Image) -> Result<Vec<(u64, Bitmap)>> {
    let mut found = Vec::new();
    let Some(pointer) = image.header.extensions.bitmaps else { return Ok(found) };
    let unreadable = |error: &dyn fmt::Display| image.corrupt(error);
    let mut directory = BitmapDirectory::new(&image.header, pointer).map_err(|error| unreadable(&error))?;
    let mut needed = READ_BYTES;
    loop {
        let place = directory.next_offset();
        let bytes = read_vec(storage, image.layer, image.device, place, needed)?;
        match directory.step(&bytes).map_err(|error| unreadable(&error))? {
            bitmap::Step::Entry(bitmap) => found.push((place, bitmap)),
            bitmap::Step::NeedBytes(count) => needed = needed.max(count as u64),
            bitmap::Step::End => return Ok(found),
        }
    }
}

/// Offset and number of entries of every snapshot's L1 table, and the length of the snapshot table in bytes.
fn snapshots(storage: &mut dyn Storage, image: &Image) -> Result<(Vec<(u64, u32)>, u64)> {
    let mut found = Vec::new();
    let mut table = SnapshotTable::new(&image.header);
    let mut needed = READ_BYTES;
    if image.header.snapshot_count == 0 {
        return Ok((found, 0));
    }
    loop {
        let bytes = read_vec(storage, image.layer, image.device, table.next_offset(), needed)?;
        match table.step(&bytes).map_err(|error| image.corrupt(error))? {
            snapshot::Step::Entry(snapshot) => found.push((snapshot.l1_offset, snapshot.l1_entries)),
            snapshot::Step::NeedBytes(count) => needed = needed.max(count as u64),
            snapshot::Step::End => return Ok((found, table.next_offset() - image.header.snapshots_offset)),
        }
    }
}
