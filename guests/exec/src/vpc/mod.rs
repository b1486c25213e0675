//! vpc images, fixed and growing: read as the end of a chain, written as the base of a commit.

mod fixed;
mod growing;

use alloc::boxed::Box;

use instar_abi::report::error_kind;
use instar_formats::vpc::{COOKIE, FOOTER_BYTES, Footer, Kind, SPARSE_HEADER_BYTES, SparseHeader, VpcError};

use self::fixed::Fixed;
use crate::blocks::BlocksTarget;
use crate::bytes::read_vec;
use crate::layer::{Layer, Result};
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::target::Target;

/// What footer and header say.
pub(crate) struct Description {
    /// The footer that counts: at the file's start, or for a fixed disk at its end.
    pub(crate) footer: Footer,
    /// A growing disk's header.
    pub(crate) sparse: Option<SparseHeader>,
}

/// Reads footer and header.
///
/// # Errors
/// If they are invalid, or tell of a disk that nobody here reads.
pub(crate) fn describe(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Description> {
    let failed = |error: VpcError| Failure::new(error_kind::OPEN, layer, error);
    let first = read_vec(storage, layer, device, 0, FOOTER_BYTES as u64)?;
    if first.starts_with(COOKIE) {
        let footer = Footer::parse(&first).map_err(failed)?;
        if footer.kind != Kind::Growing {
            return Err(failed(VpcError::NotVpc));
        }
        let bytes = read_vec(storage, layer, device, footer.header_offset, SPARSE_HEADER_BYTES as u64)?;
        let sparse = SparseHeader::parse(&bytes, footer.size_bytes).map_err(failed)?;
        return Ok(Description { footer, sparse: Some(sparse) });
    }
    let length_bytes = storage.length_bytes(device);
    let last = last_footer(storage, layer, device)?.ok_or_else(|| failed(VpcError::NotVpc))?;
    let footer = Footer::parse(&last).map_err(failed)?;
    if footer.kind != Kind::Fixed || footer.size_bytes > length_bytes - FOOTER_BYTES as u64 {
        return Err(failed(VpcError::NotVpc));
    }
    Ok(Description { footer, sparse: None })
}

/// The footer at the end of the file; `None` where there is none.
fn last_footer(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Option<alloc::vec::Vec<u8>>> {
    let Some(offset) = storage.length_bytes(device).checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let bytes = read_vec(storage, layer, device, offset, FOOTER_BYTES as u64)?;
    Ok(Some(bytes).filter(|bytes| bytes.starts_with(COOKIE)))
}

/// Opens the image on `device` for reading.
///
/// # Errors
/// As [`describe`]; if the block table is invalid.
pub fn open(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Box<dyn Layer>> {
    let Description { footer, sparse } = describe(storage, layer, device)?;
    Ok(match sparse {
        None => Box::new(Fixed::new(layer, device, footer.size_bytes)),
        Some(sparse) => Box::new(growing::open(storage, layer, device, &footer, &sparse)?),
    })
}

/// Opens the image on `device` for writing. Nothing is written.
///
/// # Errors
/// As [`open`]; if blocks overlap.
pub fn open_target(storage: &mut dyn Storage, layer: u32, device: DeviceId) -> Result<Box<dyn Target>> {
    let Description { footer, sparse } = describe(storage, layer, device)?;
    Ok(match sparse {
        None => Box::new(Fixed::new(layer, device, footer.size_bytes)),
        Some(sparse) => {
            let blocks = growing::open(storage, layer, device, &footer, &sparse)?;
            Box::new(BlocksTarget::new(storage, blocks, false)?)
        }
    })
}
