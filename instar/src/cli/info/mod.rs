//! The output of `info`: from what the sandbox reported, and what the host knows of the files, to the exact text that a
//! given version of qemu-img prints. Pure functions; nothing is opened here.

mod backing;
mod describe;
mod human;
mod image;
mod json;
mod luks;
mod node;
pub mod render;
pub(super) mod size;
mod utf8;
mod version;
mod vmdk;

use std::ffi::OsString;

pub use describe::format_name;
pub use human::Clock;
pub use image::{BadReport, Bitmap, Encryption, ImageInfo, Qcow2Info, Snapshot};
pub use luks::{Luks, Slot};
pub use version::{ParseVersionError, RECORDED, Version};
pub use vmdk::{VmdkExtent, VmdkInfo};

/// What the host knows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// The name as typed on the command line, or as found from a backing name.
    pub filename: OsString,
    /// Length of the file.
    pub length_bytes: u64,
    /// What it takes up on the disk.
    pub allocated_bytes: u64,
}

/// One image to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEntry {
    /// What the sandbox reported.
    pub info: ImageInfo,
    /// The image's file.
    pub file: FileFacts,
    /// The external data file, if there is one and it could be looked at. Only versions 8.0 to 9.0 show it; its name
    /// there is the recorded one combined with the image's directory.
    pub data_file: Option<FileFacts>,
    /// The files that hold a vmdk image's extents, by number; names as [`ImageEntry::file`]'s.
    pub extent_files: Vec<FileFacts>,
}

#[cfg(test)]
mod tests;
