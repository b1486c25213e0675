//! A vmdk image as a layer: its extents one behind the other, and where each range of the disk lies.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::{Cid, Descriptor, ExtentKind, VmdkError};
use instar_plan::extent::{self, Extent, Source};

use super::describe::{Description, describe};
use super::sparse::Sparse;
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// What counts as a cluster of an image that has none.
const FLAT_CLUSTER_BYTES: u64 = 64 << 10;

/// An open vmdk image.
pub struct Image {
    /// Number of the layer in the job, for messages.
    pub(super) layer: u32,
    /// Device of the file that holds the descriptor.
    pub(super) device: DeviceId,
    /// The descriptor as it was read.
    pub(super) descriptor: Descriptor,
    /// Where in that file it begins.
    pub(super) descriptor_offset: u64,
    /// The extents, in order and without gaps.
    pub(super) pieces: Vec<Piece>,
    size_bytes: u64,
}

/// An extent of the disk.
pub(super) struct Piece {
    /// Where on the disk it begins, in bytes.
    pub(super) start: u64,
    /// Its length in bytes.
    pub(super) length_bytes: u64,
    /// What holds it.
    pub(super) body: Body,
}

/// What holds an extent.
pub(super) enum Body {
    /// The bytes of a file from an offset on.
    Flat {
        /// The file's device.
        device: DeviceId,
        /// Where in it the extent begins.
        offset: u64,
    },
    /// A sparse file.
    Sparse(Sparse),
}

impl Piece {
    /// First byte behind the extent.
    pub(super) const fn end(&self) -> u64 {
        self.start + self.length_bytes
    }
}

impl Image {
    /// Opens the image on `device`; `data` gives the device of an extent file by its index.
    ///
    /// # Errors
    /// With qemu-img's words if the descriptor or a header is invalid; if an extent is of a kind that nobody here reads.
    pub fn open(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        data: impl Fn(u32) -> Option<DeviceId>,
    ) -> Result<Self> {
        let Description { descriptor, descriptor_offset, sparse } = describe(storage, layer, device)?;
        let mut image = Self { layer, device, descriptor, descriptor_offset, pieces: Vec::new(), size_bytes: 0 };
        if sparse.is_some() {
            let extent = Sparse::open(storage, layer, device)?;
            image.push(extent.geometry().capacity_bytes, Body::Sparse(extent))?;
            return Ok(image);
        }
        for index in 0..image.descriptor.extents.len() {
            let line = image.descriptor.extents[index].clone();
            let device = data(image.descriptor.file_index(index)).ok_or_else(|| {
                let name = alloc::string::String::from_utf8_lossy(&line.name).into_owned();
                Failure::new(error_kind::INTERNAL, layer, format_args!("the job lacks the extent file '{name}'"))
            })?;
            match line.kind {
                ExtentKind::Flat | ExtentKind::Vmfs => {
                    image.push(line.length_bytes, Body::Flat { device, offset: line.offset_bytes })?;
                }
                ExtentKind::Sparse => {
                    let extent = Sparse::open(storage, layer, device)?;
                    image.push(extent.geometry().capacity_bytes, Body::Sparse(extent))?;
                }
                ExtentKind::VmfsSparse | ExtentKind::SeSparse => {
                    let text = format_args!("vmdk extents of type {} cannot be read yet", line.kind.name());
                    return Err(Failure::new(error_kind::UNSUPPORTED, layer, text));
                }
            }
        }
        Ok(image)
    }

    fn push(&mut self, length_bytes: u64, body: Body) -> Result<()> {
        let end = self.size_bytes.checked_add(length_bytes).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| Failure::new(error_kind::OPEN, self.layer, VmdkError::SizeTooLarge))?;
        if length_bytes > 0 {
            self.pieces.push(Piece { start: self.size_bytes, length_bytes, body });
        }
        self.size_bytes = end;
        Ok(())
    }

    /// The image's own identifier.
    pub(super) fn cid(&self) -> Cid {
        self.descriptor.cid_or_none()
    }
}

impl Layer for Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn map(&mut self, storage: &mut dyn Storage, start: u64, end: u64, extents: &mut Vec<Extent>) -> Result<()> {
        for piece in &mut self.pieces {
            let (first, last) = (piece.start.max(start), piece.end().min(end));
            if first >= last {
                continue;
            }
            match &mut piece.body {
                Body::Flat { device, offset } => {
                    let source = Source::Data { device: device.0, host_offset: *offset + (first - piece.start) };
                    extent::push(extents, Extent { guest_offset: first, length_bytes: last - first, source });
                }
                Body::Sparse(sparse) => {
                    sparse.map(storage, piece.start, first - piece.start, last - piece.start, extents)?;
                }
            }
        }
        Ok(())
    }

    fn next_mapped(&self, from: u64) -> u64 {
        let mut pieces = self.pieces.iter().filter(|piece| piece.end() > from);
        pieces
            .find_map(|piece| {
                let inside = from.max(piece.start);
                match &piece.body {
                    Body::Flat { .. } => Some(inside),
                    Body::Sparse(sparse) => sparse.next_mapped(inside - piece.start).map(|offset| piece.start + offset),
                }
            })
            .unwrap_or(u64::MAX)
    }

    fn cluster_size_bytes(&self) -> u64 {
        let grains = self.pieces.iter().filter_map(|piece| match &piece.body {
            Body::Sparse(sparse) => Some(sparse.geometry().grain_size_bytes),
            Body::Flat { .. } => None,
        });
        grains.min().unwrap_or(FLAT_CLUSTER_BYTES)
    }

    fn content_ids(&self) -> Option<(Cid, Cid)> {
        Some((self.cid(), self.descriptor.parent_cid))
    }
}
