//! The overlay of a safe rebase, whatever its format: what it holds itself, and how it receives what it would no longer show.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::block::MAX_PACK_BYTES;
use instar_abi::job::format;
use instar_abi::report::error_kind;
use instar_formats::qcow2::Access;
use instar_formats::qcow2::geometry::Geometry;
use instar_plan::extent::{self, Extent};
use instar_plan::rebase::{Packing, Received, Verdicts, plan_header, plan_rebase_qcow2, plan_rebase_vmdk};

use super::heading::Heading;
use super::order::Order;
use crate::blocks::BlocksTarget;
use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::{Layer, Result};
use crate::open::{image_device, open_blocks, open_qcow2, open_vmdk};
use crate::qcow2::Qcow2Target;
use crate::reader::Reader;
use crate::report::Failure;
use crate::storage::Storage;
use crate::target::Target;
use crate::vmdk::{Neighbours, VmdkTarget, describe, stale_parent};

/// How many bytes are packed together, so that several processors can share them; at least one cluster.
const PACKED_TOGETHER_BYTES: u64 = MAX_PACK_BYTES as u64;
/// "Operation not supported".
const ENOTSUP: i32 = 95;

/// The overlay, open for writing.
pub(super) enum Overlay {
    /// A qcow2 image.
    Qcow2 {
        target: Box<Qcow2Target>,
        geometry: Geometry,
        packing: Packing,
        /// Clusters that are about to be packed.
        clusters: Vec<u8>,
    },
    /// A vmdk image.
    Vmdk(VmdkTarget),
    /// A qed image.
    Qed(BlocksTarget),
}

impl Overlay {
    /// Opens layer 0.
    ///
    /// # Errors
    /// If its metadata cannot be trusted.
    pub(super) fn open(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<Self> {
        // A chain may lie below the overlay before or after: an unallocated cluster is never as good as a zero one.
        const HAS_BACKING: bool = true;
        let (device, image_format) = image_device(job, 0)?;
        Ok(match image_format {
            format::QCOW2 => {
                let image = open_qcow2(storage, job, 0, Access::ReadWrite)?;
                let target = Box::new(Qcow2Target::new(storage, image, HAS_BACKING)?);
                let geometry = target.header().geometry();
                let packing = if order.compresses { Packing::WholeClusters } else { Packing::Never };
                let room_bytes = geometry.cluster_size_bytes().max(PACKED_TOGETHER_BYTES);
                let clusters = vec![0; if order.compresses { to_index(room_bytes) } else { 0 }];
                Self::Qcow2 { target, geometry, packing, clusters }
            }
            format::VMDK => {
                let old_parent = job.image(1).filter(|_| !order.old.is_empty());
                if let Some((below, entry)) = old_parent
                    && entry.format == format::VMDK
                {
                    let wanted = describe(storage, 0, device)?.descriptor.parent_cid;
                    let own = describe(storage, 1, below)?.descriptor.cid_or_none();
                    if own != wanted {
                        return Err(stale_parent(0, wanted, own));
                    }
                }
                // What a guest reads stays the same, so the identifier does: images on top of this one know it by that.
                let neighbours = Neighbours { is_parent_of_vmdk: true, parent_cid: None, has_backing: HAS_BACKING };
                let image = open_vmdk(storage, job, 0)?;
                Self::Vmdk(VmdkTarget::new(storage, image, neighbours)?)
            }
            _ => {
                let blocks = open_blocks(storage, 0, device, image_format)?;
                Self::Qed(BlocksTarget::new(storage, blocks, HAS_BACKING)?)
            }
        })
    }

    /// What receives extents.
    pub(super) fn target(&mut self) -> &mut dyn Target {
        match self {
            Self::Qcow2 { target, .. } => target.as_mut(),
            Self::Vmdk(target) => target,
            Self::Qed(target) => target,
        }
    }

    /// What is read.
    fn layer(&mut self) -> &mut dyn Layer {
        match self {
            Self::Qcow2 { target, .. } => target.layer(),
            Self::Vmdk(target) => target.layer(),
            Self::Qed(target) => target.layer(),
        }
    }

    /// Length of a cluster in bytes.
    pub(super) fn cluster_size_bytes(&mut self) -> u64 {
        self.layer().cluster_size_bytes()
    }

    /// The smallest part that can be received by itself, in bytes, where windows are `window_bytes` long, a power of two.
    pub(super) fn unit_bytes(&mut self, window_bytes: u64) -> u64 {
        match self {
            Self::Qcow2 { geometry, .. } => geometry.subcluster_size_bytes(),
            // Windows consist of whole units, also where a cluster is longer than a window or its length no power of two.
            _ => (1 << self.cluster_size_bytes().trailing_zeros()).min(window_bytes),
        }
    }

    /// What the overlay itself holds in `start..end`, which lies within the virtual size.
    ///
    /// # Errors
    /// If the metadata contradicts itself.
    pub(super) fn own_extents(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        self.layer().map(storage, start, end, &mut extents)?;
        Ok(extents)
    }

    /// Plans what the overlay receives in a window.
    pub(super) fn plan(&self, own: &[Extent], old: &[Extent], verdicts: &Verdicts) -> Received {
        match self {
            Self::Qcow2 { geometry, packing, .. } => plan_rebase_qcow2(geometry, *packing, own, old, verdicts),
            Self::Vmdk(_) | Self::Qed(_) => Received { plain: plan_rebase_vmdk(old, verdicts), packed: Vec::new() },
        }
    }

    /// Whether what is put lies in its place before tables show it. What is packed waits for more of its kind.
    pub(super) fn writes_at_once(&self) -> bool {
        match self {
            Self::Qcow2 { .. } | Self::Qed(_) => true,
            Self::Vmdk(target) => !target.packs(),
        }
    }

    /// Whether what is received can be stored packed, as is asked for.
    ///
    /// # Errors
    /// If it cannot.
    pub(super) fn check_packing(&self, received: &Received) -> Result<()> {
        match self {
            Self::Qcow2 { .. } if received.packed.is_empty() => Ok(()),
            Self::Qcow2 { target, .. } => target.check_packing(),
            // Grains are packed in images all of whose grains are; elsewhere they are not.
            Self::Vmdk(_) => Ok(()),
            Self::Qed(_) => {
                Err(Failure { errno: ENOTSUP, ..Failure::new(error_kind::STORAGE, 0, "Operation not supported") })
            }
        }
    }

    /// Stores clusters packed, each given by what the old chain shows in it, in order. Gives back those that would not be
    /// shorter.
    ///
    /// # Errors
    /// If a device refuses.
    pub(super) fn put_packed(
        &mut self,
        storage: &mut dyn Storage,
        reader: &mut Reader,
        clusters: Vec<Vec<Extent>>,
    ) -> Result<Vec<Extent>> {
        let mut left_over = Vec::new();
        let Self::Qcow2 { target, geometry, clusters: buffer, .. } = self else {
            clusters.iter().flatten().for_each(|piece| extent::push(&mut left_over, *piece));
            return Ok(left_over);
        };
        let size = to_index(geometry.cluster_size_bytes());
        let follow = |left: &Vec<Extent>, right: &Vec<Extent>| {
            left.last().map(Extent::end) == right.first().map(|piece| piece.guest_offset)
        };
        // What lies side by side is read together.
        let most = buffer.len() / size;
        for run in clusters.chunk_by(follow).flat_map(|run| run.chunks(most)) {
            let mut whole = Vec::new();
            run.iter().flatten().for_each(|piece| extent::push(&mut whole, *piece));
            reader.fill(storage, &whole, &mut buffer[..run.len() * size])?;
            let packed = target.pack(storage, &buffer[..run.len() * size])?;
            for (pieces, packed) in run.iter().zip(packed) {
                let Some(first) = pieces.first() else { continue };
                let index = geometry.cluster_index(first.guest_offset);
                let is_packed = match packed {
                    Some(packed) => target.put_packed(storage, index, &packed)?,
                    None => false,
                };
                if !is_packed {
                    pieces.iter().for_each(|piece| extent::push(&mut left_over, *piece));
                }
            }
        }
        Ok(left_over)
    }

    /// Names the new backing file. Everything put must be durable.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn change_heading(&mut self, storage: &mut dyn Storage, order: &Order, heading: &Heading) -> Result<()> {
        let Self::Qcow2 { target, .. } = self else { return heading.write(storage) };
        // Tables may have moved since the heading was planned.
        let header =
            plan_header(target.header(), &order.backing()).map_err(|error| Failure::new(error_kind::JOB, 0, error))?;
        target.replace_header(storage, header)
    }
}
