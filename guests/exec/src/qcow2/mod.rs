//! qcow2 images: read as a layer, written as the target of a commit or rebase, emptied as an overlay.

mod allocator;
mod bitmaps;
mod bitmaps_growth;
mod census;
mod empty;
mod fill;
mod grow;
mod image;
mod l1;
mod packed;
mod rebase;
mod refcounts;
mod repair;
mod slices;
mod snapshots;
mod target;
mod vacated;
mod waiting;

pub use empty::Emptier;
pub use image::Image;
pub(crate) use image::{header_failure, read_header};
pub(crate) use rebase::HeaderChange;
pub(crate) use repair::repair_if_dirty;
pub use target::Qcow2Target;
