//! Empties an overlay once its base holds everything it held.
//!
//! At every moment the overlay shows what it showed: its own clusters until its L1 table is gone, the base from then on.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_formats::qcow2::entry::L2Entry;
use instar_formats::qcow2::geometry::Geometry;
use instar_formats::qcow2::{Access, CryptMethod, Header, feature, refcount};
use instar_plan::empty::{EmptyLayout, plan_empty_qcow2};
use instar_plan::planted::{self, Bug};

use super::image::{Image, read_header};
use super::target::Qcow2Target;
use crate::bytes::{is_zero, read_vec, to_index};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;

/// Header bytes from the L1 table's offset to the end of the feature bits, rewritten together: they lie in one sector.
const FIELDS_START: usize = 40;
const FIELDS_END: usize = 96;
/// From this length on a file system makes a table zero faster than it writes zeros.
const LONG_TABLE_BYTES: u64 = 64 << 10;
/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// How an overlay is going to be emptied. Made before anything is written, so that an overlay that cannot be emptied is
/// noticed in time.
pub struct Emptier(Method);

enum Method {
    /// The image becomes header, refcount table, refcount block and an empty L1 table.
    Rebuild(Overlay, EmptyLayout),
    /// As `Rebuild`, where these lie in their places already.
    Clear(Overlay, EmptyLayout),
    /// Every cluster is given up, and everything else stays where it is.
    Discard(Box<Qcow2Target>),
}

/// What has to be known of an overlay whose clusters nobody asks for any more.
struct Overlay {
    layer: u32,
    device: DeviceId,
    header: Box<Header>,
    geometry: Geometry,
}

impl Emptier {
    /// Decides how the image on `device` is emptied, and checks that it can be. `data_device` is that of its external data file.
    ///
    /// # Errors
    /// If the header is invalid, or if the image has to be emptied cluster by cluster and its metadata contradicts itself.
    pub fn new(storage: &mut dyn Storage, layer: u32, device: DeviceId, data_device: Option<DeviceId>) -> Result<Self> {
        let header = Box::new(read_header(storage, layer, device, Access::ReadWrite)?);
        let overlay = Overlay { layer, device, geometry: header.geometry(), header };
        let header = &overlay.header;
        let holds_more = header.snapshot_count != 0
            || header.extensions.bitmaps.is_some()
            || header.crypt_method == CryptMethod::Luks
            || header.has_external_data_file();
        match plan_empty_qcow2(&overlay.geometry, header.l1_offset, header.l1_entries, holds_more) {
            Some(layout) if is_in_place(storage, &overlay, &layout)? => Ok(Self(Method::Clear(overlay, layout))),
            Some(layout) => Ok(Self(Method::Rebuild(overlay, layout))),
            None => {
                let image = Image::open(storage, layer, device, data_device, Access::ReadWrite)?;
                let mut target = Qcow2Target::new(storage, image, true)?;
                target.clears_data_last = !planted::is(Bug::DataFileClearedTooEarly);
                Ok(Self(Method::Discard(Box::new(target))))
            }
        }
    }

    /// Empties the overlay. The base must be durable.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn empty(self, storage: &mut dyn Storage) -> Result<()> {
        match self.0 {
            Method::Rebuild(image, layout) => rebuild(storage, &image, &layout),
            Method::Clear(image, layout) => clear(storage, &image, &layout),
            Method::Discard(mut target) => target.discard_all(storage),
        }
    }
}

/// Whether L1 table, refcount table and the only refcount block lie where `layout` has them, as in an image that was made in
/// one go, and nothing else in the header has to change.
fn is_in_place(storage: &mut dyn Storage, image: &Overlay, layout: &EmptyLayout) -> Result<bool> {
    let header = &image.header;
    let stays = header.l1_offset == layout.l1_offset
        && header.refcount_table_offset == layout.refcount_table_offset
        && header.refcount_table_clusters == 1
        && !header.is_dirty()
        && header.autoclear_features & !feature::KNOWN_AUTOCLEAR == 0;
    if !stays {
        return Ok(false);
    }
    let table =
        read_vec(storage, image.layer, image.device, header.refcount_table_offset, header.refcount_table_bytes())?;
    let (first, rest) = table.split_at(8);
    Ok(*first == layout.refcount_block_offset.to_be_bytes() && is_zero(rest))
}

/// Empties the L1 table, and then the refcount block. No state between is more than leaky, so nothing needs the dirty bit.
fn clear(storage: &mut dyn Storage, image: &Overlay, layout: &EmptyLayout) -> Result<()> {
    let (layer, device) = (image.layer, image.device);
    let failure = |error| Failure::storage(layer, error);
    let l1_bytes = u64::from(image.header.l1_entries) * 8;
    if l1_bytes < LONG_TABLE_BYTES {
        storage.write(device, layout.l1_offset, &vec![0; to_index(l1_bytes)]).map_err(failure)?;
    } else {
        storage.write_zeroes(device, layout.l1_offset, l1_bytes, false).map_err(failure)?;
    }
    storage.flush(device).map_err(failure)?;

    // The refcounts of what stays were 1 before; they share their sectors with nothing that is written apart from them.
    let mut refcounts = layout_refcounts(image, layout);
    refcounts.resize(refcounts.len().next_multiple_of(SECTOR_BYTES), 0);
    storage.write(device, layout.refcount_block_offset, &refcounts).map_err(failure)?;
    let (start, end) = (layout.refcount_block_offset + refcounts.len() as u64, layout.l1_offset);
    if start < end {
        storage.write_zeroes(device, start, end - start, false).map_err(failure)?;
    }
    // A crash before this is durable leaves a longer file, or refcounts of clusters that nothing refers to.
    storage.resize(device, layout.length_bytes).map_err(failure)
}

/// The first bytes of the refcount block: one reference each to the clusters of an empty image.
fn layout_refcounts(image: &Overlay, layout: &EmptyLayout) -> Vec<u8> {
    let (order, clusters) = (image.geometry.refcount_order, to_index(layout.clusters));
    let mut refcounts = vec![0; (clusters << order).div_ceil(8)];
    for cluster in 0..clusters {
        refcount::write(&mut refcounts, order, cluster, 1);
    }
    refcounts
}

fn rebuild(storage: &mut dyn Storage, image: &Overlay, layout: &EmptyLayout) -> Result<()> {
    let (layer, device, size) = (image.layer, image.device, image.geometry.cluster_size_bytes());
    let failure = |error| Failure::storage(layer, error);
    let mut fields = read_vec(storage, layer, device, 0, FIELDS_END as u64)?.split_off(FIELDS_START);
    let put = |fields: &mut Vec<u8>, offset: usize, bytes: &[u8]| {
        fields[offset - FIELDS_START..][..bytes.len()].copy_from_slice(bytes);
    };

    // From here on the refcounts mean nothing, and the table that says what the overlay holds is empty.
    let mark = if planted::is(Bug::RebuiltWithoutDirtyBit) { 0 } else { feature::DIRTY };
    let dirty = image.header.incompatible_features | mark;
    storage.write(device, 72, &dirty.to_be_bytes()).map_err(failure)?;
    let l1_bytes = u64::from(image.header.l1_entries) * 8;
    storage.write(device, image.header.l1_offset, &vec![0; to_index(l1_bytes)]).map_err(failure)?;
    storage.flush(device).map_err(failure)?;

    put(&mut fields, 40, &layout.l1_offset.to_be_bytes());
    put(&mut fields, 48, &layout.refcount_table_offset.to_be_bytes());
    put(&mut fields, 56, &1u32.to_be_bytes());
    if layout.l1_is_in_the_way {
        // The header must not name an L1 table that is about to become a refcount table.
        storage.write_zeroes(device, size, layout.length_bytes - size, false).map_err(failure)?;
        storage.flush(device).map_err(failure)?;
        put(&mut fields, 72, &dirty.to_be_bytes());
        storage.write(device, FIELDS_START as u64, &fields).map_err(failure)?;
        storage.flush(device).map_err(failure)?;
    }

    // Zeros first, and of the tables only what is not zero: a file system keeps track of zeros without writing them.
    storage.write_zeroes(device, size, layout.length_bytes - size, false).map_err(failure)?;
    storage.settle().map_err(failure)?;
    storage
        .write(device, layout.refcount_table_offset, &layout.refcount_block_offset.to_be_bytes())
        .map_err(failure)?;
    storage.write(device, layout.refcount_block_offset, &layout_refcounts(image, layout)).map_err(failure)?;
    storage.flush(device).map_err(failure)?;

    put(&mut fields, 72, &(dirty & !feature::DIRTY).to_be_bytes());
    put(&mut fields, 88, &(image.header.autoclear_features & feature::KNOWN_AUTOCLEAR).to_be_bytes());
    storage.write(device, FIELDS_START as u64, &fields).map_err(failure)?;
    storage.flush(device).map_err(failure)?;
    // A crash before this is durable leaves a longer file, nothing else.
    storage.resize(device, layout.length_bytes).map_err(failure)
}

impl Qcow2Target {
    /// Gives every cluster up. Tables stay, with nothing in them.
    fn discard_all(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let window = self.window_bytes();
        let size = self.size_bytes();
        let mut start = self.next_mapped(0);
        while start < size {
            let end = (start / window * window).saturating_add(window).min(size);
            for cluster in self.mapped_clusters(storage, start, end)? {
                self.replace(storage, cluster, L2Entry::UNALLOCATED)?;
            }
            if self.is_under_pressure() {
                self.make_visible(storage)?;
            }
            start = self.next_mapped(end);
        }
        self.make_visible(storage)
    }
}
