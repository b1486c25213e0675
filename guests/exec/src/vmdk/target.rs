//! A vmdk image that receives extents: hands each to the part of the disk where it belongs, and renews the identifier.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::Cid;
use instar_plan::extent::{Extent, Source};

use super::image::{Body, Image, Piece};
use super::writer::{Below, Writer};
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;
use crate::transfer::Transfer;

/// Bytes of grain tables that may wait for [`Target::make_visible`].
const UNWRITTEN_BYTES_MAX: u64 = 8 << 20;
/// The most grains that are planned at once.
const WINDOW_GRAINS_MAX: u64 = 8192;
/// The most bytes that are handed over at once: however finely the layers above are cut, the pieces fit into memory.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
/// "Operation not supported".
const EOPNOTSUPP: i32 = 95;

/// What the layers around an image mean for its content identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// Whether the layer above is a vmdk image, which knows this one by its identifier. The identifier then stays: no
    /// order of writes could change it here and in the layer above at once, and in between the chain could not be read.
    pub is_parent_of_vmdk: bool,
    /// The identifier of the layer below, if that is a vmdk image.
    pub parent_cid: Option<Cid>,
    /// Whether there is a layer below, or will be.
    pub has_backing: bool,
}

/// A vmdk image that is written.
pub struct VmdkTarget {
    image: Image,
    writers: Vec<PieceWriter>,
    window_bytes: u64,
    has_backing: bool,
    keeps_cid: bool,
    receives: bool,
    /// Why the layer below cannot be relied on, if so.
    refusal: Option<Failure>,
}

enum PieceWriter {
    Flat { transfer: Transfer, is_dirty: bool },
    Sparse(Writer),
}

impl VmdkTarget {
    /// Prepares `image` for writing. Nothing is written.
    ///
    /// # Errors
    /// If its metadata contradicts itself, or it is of a form that cannot be written.
    pub fn new(storage: &mut dyn Storage, mut image: Image, neighbours: Neighbours) -> Result<Self> {
        check_files(&image)?;
        let layer = image.layer;
        let mut writers = Vec::with_capacity(image.pieces.len());
        let mut window_bytes = WINDOW_BYTES_MAX;
        for piece in &mut image.pieces {
            writers.push(match &mut piece.body {
                Body::Flat { device, .. } => {
                    PieceWriter::Flat { transfer: Transfer::new(layer, *device), is_dirty: false }
                }
                Body::Sparse(sparse) => {
                    let most = sparse.geometry().grain_size_bytes.saturating_mul(WINDOW_GRAINS_MAX);
                    window_bytes = window_bytes.min(1 << most.ilog2());
                    PieceWriter::Sparse(Writer::new(storage, sparse)?)
                }
            });
        }
        let wanted = image.descriptor.parent_cid;
        let refusal = neighbours.parent_cid.filter(|own| *own != wanted).map(|own| stale_parent(layer, wanted, own));
        let Neighbours { is_parent_of_vmdk: keeps_cid, has_backing, .. } = neighbours;
        Ok(Self { image, writers, window_bytes, has_backing, keeps_cid, receives: false, refusal })
    }

    /// The image as a layer that is read, with everything that was put.
    pub(crate) fn layer(&mut self) -> &mut dyn Layer {
        &mut self.image
    }

    /// Whether everything that is put gets packed.
    pub(crate) fn packs(&self) -> bool {
        let is_packed = |body: &Body| matches!(body, Body::Sparse(sparse) if sparse.header.compression.is_some());
        self.image.pieces.iter().all(|piece| is_packed(&piece.body))
    }

    /// Stores another content identifier: who knows the image by the old one must not take the new content for the old.
    fn renew_cid(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let Some((cid, digits)) = self.image.descriptor.next_cid() else { return Ok(()) };
        let offset = self.image.descriptor_offset + self.image.descriptor.cid_digits.start as u64;
        let failed = |error| Failure::storage(self.image.layer, error);
        storage.write(self.image.device, offset, &digits).map_err(failed)?;
        storage.flush(self.image.device).map_err(failed)?;
        self.image.descriptor.cid = Some(cid);
        Ok(())
    }
}

/// An image whose layer below is not the one that it was made for.
pub(crate) fn stale_parent(layer: u32, wanted: Cid, own: Cid) -> Failure {
    Failure::new(
        error_kind::CORRUPT,
        layer,
        format_args!("the image below has been changed: its CID is {own}, and parentCID says {wanted}"),
    )
}

/// No two extents may be written to the same bytes.
fn check_files(image: &Image) -> Result<()> {
    let mut ranges: Vec<(DeviceId, u64, u64)> = image
        .pieces
        .iter()
        .map(|piece| match &piece.body {
            Body::Flat { device, offset } => (*device, *offset, offset + piece.length_bytes),
            Body::Sparse(sparse) => (sparse.device, 0, u64::MAX),
        })
        .collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[1].1 < pair[0].2) {
        return Err(Failure::new(error_kind::CORRUPT, image.layer, "two extents lie on the same bytes of a file"));
    }
    Ok(())
}

impl Target for VmdkTarget {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn grow(&mut self, _: &mut dyn Storage, _: &mut [Box<dyn Layer>], size_bytes: u64) -> Result<()> {
        if size_bytes <= self.size_bytes() {
            return Ok(());
        }
        Err(Failure { errno: EOPNOTSUPP, ..Failure::new(error_kind::JOB, self.image.layer, "Operation not supported") })
    }

    fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    fn announce(&mut self, _: &mut dyn Storage, sources: &[Extent]) -> Result<()> {
        self.receives |= sources.iter().any(|extent| extent.source != Source::Absent);
        Ok(())
    }

    fn announced(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if self.receives && !self.keeps_cid { self.renew_cid(storage) } else { Ok(()) }
    }

    fn put(&mut self, storage: &mut dyn Storage, below: &mut [Box<dyn Layer>], sources: &[Extent]) -> Result<()> {
        let mut below = Below { layers: below, shows_through: self.has_backing, refusal: self.refusal.as_ref() };
        for (Piece { start, length_bytes, body }, writer) in self.image.pieces.iter_mut().zip(&mut self.writers) {
            let end = *start + *length_bytes;
            let own: Vec<Extent> = sources
                .iter()
                .filter(|extent| extent.source != Source::Absent)
                .filter_map(|extent| extent.clipped(*start, end))
                .collect();
            match (body, writer) {
                (Body::Sparse(sparse), PieceWriter::Sparse(writer)) => {
                    writer.put(storage, sparse, *start, &mut below, &own)?;
                }
                (Body::Flat { offset, .. }, PieceWriter::Flat { transfer, is_dirty }) => {
                    *is_dirty |= !own.is_empty();
                    for extent in own {
                        let target_offset = *offset + (extent.guest_offset - *start);
                        transfer.push(storage, target_offset, extent.length_bytes, extent.source)?;
                    }
                    transfer.hand_on(storage)?;
                }
                _ => unreachable!("writers are made one for each extent, of its kind"),
            }
        }
        Ok(())
    }

    fn is_under_pressure(&self) -> bool {
        let waiting = self.image.pieces.iter().map(|piece| match &piece.body {
            Body::Sparse(sparse) => Writer::unwritten_bytes(sparse),
            Body::Flat { .. } => 0,
        });
        waiting.sum::<u64>() > UNWRITTEN_BYTES_MAX
    }

    fn make_visible(&mut self, storage: &mut dyn Storage) -> Result<()> {
        for (piece, writer) in self.image.pieces.iter_mut().zip(&mut self.writers) {
            match (&mut piece.body, writer) {
                (Body::Sparse(sparse), PieceWriter::Sparse(writer)) => writer.make_visible(storage, sparse)?,
                (Body::Flat { device, .. }, PieceWriter::Flat { transfer, is_dirty }) => {
                    transfer.hand_on(storage)?;
                    if core::mem::take(is_dirty) {
                        storage.flush(*device).map_err(|error| Failure::storage(self.image.layer, error))?;
                    }
                }
                _ => unreachable!("writers are made one for each extent, of its kind"),
            }
        }
        Ok(())
    }
}
