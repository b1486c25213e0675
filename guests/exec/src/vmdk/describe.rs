//! What a vmdk image is, from its first file alone: the descriptor, and the sparse header where the file has one.

use instar_abi::report::error_kind;
use instar_formats::vmdk::header::{FOOTER_BACK_BYTES, HEADER_BYTES, MAGIC};
use instar_formats::vmdk::{DESCRIPTOR_BYTES_MAX, Descriptor, SparseHeader, VmdkError};

use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// What the file of an image's name holds.
#[derive(Clone, Debug)]
pub struct Description {
    /// The descriptor, in the file or being the file.
    pub descriptor: Descriptor,
    /// Where it begins, in bytes.
    pub descriptor_offset: u64,
    /// The header, if the file is a sparse extent itself.
    pub sparse: Option<SparseHeader>,
}

/// Reads a layer's image file.
///
/// # Errors
/// With qemu-img's words if it is not a vmdk image, or of a subformat that nobody here reads.
pub fn describe(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Description> {
    let refused = |error: VmdkError| Failure::new(error_kind::OPEN, layer, error);
    let length_bytes = storage.length_bytes(device);
    if length_bytes == 0 {
        return Err(refused(VmdkError::TooSmall));
    }
    let magic = read_vec(storage, layer, device, 0, MAGIC.len() as u64)?;
    if magic == b"COWD" {
        return Err(Failure::new(
            error_kind::UNSUPPORTED,
            layer,
            "sparse vmdk extents of ESX servers cannot be read yet",
        ));
    }
    if magic != MAGIC {
        let text = read_vec(storage, layer, device, 0, length_bytes.min(DESCRIPTOR_BYTES_MAX))?;
        let descriptor = Descriptor::parse_file(&text).map_err(refused)?;
        return Ok(Description { descriptor, descriptor_offset: 0, sparse: None });
    }
    let header = read_sparse_header(storage, layer, device)?;
    let (offset, room_bytes) = header.descriptor.unwrap_or((0, 0));
    let text = read_vec(storage, layer, device, offset, room_bytes.min(DESCRIPTOR_BYTES_MAX))?;
    let mut descriptor = Descriptor::parse_embedded(&text).map_err(refused)?;
    if header.compression.is_some() {
        // What the header says of the grains stands above what the descriptor calls the image.
        descriptor.create_type = b"streamOptimized".to_vec();
    }
    if header.geometry.capacity_bytes == 0 {
        let name = alloc::string::String::from_utf8_lossy(&descriptor.create_type).into_owned();
        return Err(refused(VmdkError::ImageType(name)));
    }
    Ok(Description { descriptor, descriptor_offset: offset, sparse: Some(header) })
}

/// Reads the header of a sparse extent, at the file's start or its end.
///
/// # Errors
/// With qemu-img's words if it is invalid.
pub fn read_sparse_header(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<SparseHeader> {
    let length_bytes = storage.length_bytes(device);
    let mut bytes = read_vec(storage, layer, device, 0, HEADER_BYTES as u64)?;
    let is_footer = SparseHeader::points_to_footer(&bytes);
    if is_footer {
        let offset = length_bytes.saturating_sub(FOOTER_BACK_BYTES);
        bytes = read_vec(storage, layer, device, offset, HEADER_BYTES as u64)?;
    }
    SparseHeader::parse(&bytes, length_bytes, is_footer).map_err(|error| Failure::new(error_kind::OPEN, layer, error))
}
