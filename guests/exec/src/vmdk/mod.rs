//! vmdk images: read as a layer, written as the base of a commit or the overlay of a rebase, emptied as an overlay.
//!
//! An image is one sparse file with its descriptor inside, or a descriptor file with extent files beside it; those are the
//! layer's data devices, in the order of [`instar_formats::vmdk::Descriptor::file_index`].

mod census;
mod describe;
mod empty;
mod image;
mod packer;
mod parent;
mod sparse;
mod target;
mod writer;

pub use describe::{Description, describe, read_sparse_header};
pub use empty::VmdkEmptier;
pub use image::Image;
pub use target::{Neighbours, VmdkTarget};

pub(crate) use parent::DescriptorChange;
pub(crate) use target::stale_parent;
