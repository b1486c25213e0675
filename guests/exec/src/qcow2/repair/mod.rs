//! Repairs a qcow2 image whose refcounts may be stale because it was not closed properly.
//!
//! Everything that refers to a cluster is counted, twice: once to see that nothing but refcounts is wrong, then to correct
//! them. The dirty bit goes last, so a repair that is interrupted is simply done again.

mod count;
mod flags;

use alloc::vec::Vec;

use instar_abi::report::{RepairItem, error_kind, repair_kind};
use instar_formats::qcow2::{Access, Header, feature};
use instar_plan::repair::{Correction, References, plan_refcount};

use super::allocator::Allocator;
use super::census::Census;
use super::image::{Image, read_header};
use super::refcounts::Refcounts;
use super::snapshots::{MetadataRange, l1_tables, other_metadata};
use crate::layer::Result;
use crate::repairs::Repairs;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use count::Window;

/// Bytes of changed refcount blocks that may wait.
const UNWRITTEN_BYTES_MAX: u64 = 8 << 20;
/// Header offset of the incompatible feature bits.
const INCOMPATIBLE_FEATURES: u64 = 72;

/// Repairs the image on `device`, if it is marked as dirty.
///
/// # Errors
/// If more is wrong with it than refcounts; nothing has been written then. If the device refuses.
pub(crate) fn repair_if_dirty(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    repairs: &mut Repairs,
) -> Result<()> {
    let header = read_header(storage, layer, device, Access::ReadWrite)?;
    if !header.is_dirty() {
        return Ok(());
    }
    let outcome = repair(storage, layer, device, header, repairs);
    repairs.finish(layer);
    outcome.map_err(|failure| match failure.kind {
        error_kind::CORRUPT => Failure::new(
            failure.kind,
            layer,
            format_args!("the image was not closed properly and more than its refcounts is wrong: {}", failure.text),
        ),
        _ => failure,
    })
}

fn repair(
    storage: &mut dyn Storage,
    layer: u32,
    device: DeviceId,
    header: Header,
    repairs: &mut Repairs,
) -> Result<()> {
    let refcounts = Refcounts::open(storage, layer, device, &header)?;
    let image = Image::with_header(storage, layer, device, None, header)?;
    let file_clusters = image.geometry.clusters_for(storage.length_bytes(device));
    let mut repair = Repair {
        metadata: metadata(storage, &image, &refcounts)?,
        snapshots: l1_tables(storage, &image)?,
        allocator: Allocator::new(Census::of_length(file_clusters), file_clusters),
        image,
        refcounts,
        file_clusters,
    };
    repair.run(storage, repairs)
}

/// Everything but the L2 tables, the snapshots' L1 tables, and what they refer to.
fn metadata(storage: &mut dyn Storage, image: &Image, refcounts: &Refcounts) -> Result<Vec<MetadataRange>> {
    let size = image.geometry.cluster_size_bytes();
    let (table_offset, table_clusters) = refcounts.table_clusters();
    let mut ranges = other_metadata(storage, image)?;
    let mut push = |offset, length_bytes, what| ranges.push(MetadataRange { offset, length_bytes, what });
    push(0, 1, "header");
    push(image.header.l1_offset, u64::from(image.header.l1_entries) * 8, "L1 table");
    push(table_offset, table_clusters * size, "refcount table");
    for offset in refcounts.block_offsets() {
        push(offset, size, "refcount block");
    }
    Ok(ranges)
}

struct Repair {
    image: Image,
    refcounts: Refcounts,
    /// Where things were when the repair began: what it adds lies behind the end of the file.
    metadata: Vec<MetadataRange>,
    /// Offset and number of entries of every snapshot's L1 table.
    snapshots: Vec<(u64, u32)>,
    /// Places for refcount blocks that are missing.
    allocator: Allocator,
    file_clusters: u64,
}

impl Repair {
    fn run(&mut self, storage: &mut dyn Storage, repairs: &mut Repairs) -> Result<()> {
        let layer = self.image.layer;
        let mut is_wrong = false;
        self.for_each_correction(storage, |_, _, Correction { cluster, recorded, references }| {
            is_wrong = true;
            let kind = repair_kind::REFCOUNT;
            repairs.push(RepairItem { layer, kind, subject: cluster, recorded, references });
            Ok(())
        })?;
        if is_wrong {
            self.for_each_correction(storage, Self::correct)?;
            self.make_durable(storage)?;
        }
        if self.correct_flags(storage, repairs)? {
            self.flush(storage)?;
        }
        let clean = self.image.header.incompatible_features & !feature::DIRTY;
        self.write(storage, INCOMPATIBLE_FEATURES, &clean.to_be_bytes())?;
        self.flush(storage)
    }

    /// Calls `act` with every refcount that is wrong.
    fn for_each_correction(
        &mut self,
        storage: &mut dyn Storage,
        mut act: impl FnMut(&mut Self, &mut dyn Storage, Correction) -> Result<()>,
    ) -> Result<()> {
        let mut first = 0;
        while first < self.file_clusters {
            let mut window = Window::new(first, self.file_clusters);
            self.count(storage, &mut window)?;
            for (cluster, references) in (first..).zip(window.references()) {
                if let Some(correction) = self.compare(storage, cluster, *references)? {
                    act(self, storage, correction)?;
                }
            }
            first = window.end();
        }
        Ok(())
    }

    fn compare(
        &mut self,
        storage: &mut dyn Storage,
        cluster: u64,
        references: References,
    ) -> Result<Option<Correction>> {
        let geometry = self.image.geometry;
        let recorded = self.refcounts.get(storage, cluster)?;
        plan_refcount(cluster, recorded, references, geometry.refcount_max()).map_err(|error| {
            self.image.corrupt(format_args!("the cluster at {:#x} {error}", cluster << geometry.cluster_bits))
        })
    }

    fn correct(&mut self, storage: &mut dyn Storage, correction: Correction) -> Result<()> {
        self.allocator.cover(storage, &mut self.refcounts, correction.cluster)?;
        self.refcounts.set(storage, correction.cluster, correction.references)?;
        // Nothing trusts a refcount of a dirty image, so they may be written at any time.
        if self.refcounts.unwritten_bytes() > UNWRITTEN_BYTES_MAX {
            self.refcounts.write_blocks(storage)
        } else {
            Ok(())
        }
    }

    /// Blocks before the table that names them, and the table before the header.
    fn make_durable(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.refcounts.write_blocks(storage)?;
        self.flush(storage)?;
        if self.refcounts.table_has_changed() {
            self.refcounts.write_table(storage)?;
            self.flush(storage)?;
        }
        let abandoned = self.allocator.take_abandoned_tables();
        if !abandoned.is_empty() {
            self.refcounts.write_table_place(storage)?;
            self.flush(storage)?;
            for cluster in abandoned.into_iter().flatten() {
                self.refcounts.set(storage, cluster, 0)?;
            }
            self.refcounts.write_blocks(storage)?;
            self.flush(storage)?;
        }
        Ok(())
    }

    fn write(&self, storage: &mut dyn Storage, offset: u64, bytes: &[u8]) -> Result<()> {
        storage.write(self.image.device, offset, bytes).map_err(|error| Failure::storage(self.image.layer, error))
    }

    fn flush(&self, storage: &mut dyn Storage) -> Result<()> {
        storage.flush(self.image.device).map_err(|error| Failure::storage(self.image.layer, error))
    }
}
