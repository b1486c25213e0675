//! Gives a vmdk image another parent: two lines of its descriptor, wherever that lies. Nothing else of the image changes, not
//! even its own content identifier.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_formats::vmdk::{Cid, DESCRIPTOR_BYTES_MAX, Descriptor, SECTOR_BYTES, with_parent};

use super::describe::{Description, describe};
use super::sparse::{Sparse, read_directory};
use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// A descriptor with another parent, ready to be written.
pub(crate) struct DescriptorChange {
    layer: u32,
    device: DeviceId,
    /// Where in the file the first byte that changes lies.
    offset: u64,
    /// From there to the last byte that changes.
    bytes: Vec<u8>,
    /// The file's length afterwards, where the descriptor is a file of its own and gets shorter.
    length_bytes: Option<u64>,
}

impl DescriptorChange {
    /// Plans the change; nothing is written. `parent` gives its name and identifier; the identifier that is recorded stays
    /// where the parent's own is not known.
    ///
    /// # Errors
    /// If the new text does not fit into the descriptor's place, or other metadata lies there.
    pub(crate) fn plan(
        storage: &mut dyn Storage,
        layer: u32,
        device: DeviceId,
        parent: Option<(&[u8], Option<Cid>)>,
    ) -> Result<Self> {
        let Description { descriptor, descriptor_offset: offset, sparse } = describe(storage, layer, device)?;
        let refused = |text: &str| Failure::new(error_kind::JOB, layer, text);
        let parent = match parent {
            None => None,
            Some((name, Some(cid))) => Some((name, cid)),
            Some((name, None)) if descriptor.parent_cid != Cid::NONE => Some((name, descriptor.parent_cid)),
            Some(_) => {
                return Err(refused("the content identifier of the new backing file is not known: it cannot be read"));
            }
        };
        let room_bytes = match &sparse {
            None => storage.length_bytes(device),
            Some(header) => header.descriptor.ok_or_else(|| refused("the image has no descriptor"))?.1,
        };
        let old = read_vec(storage, layer, device, offset, room_bytes.min(DESCRIPTOR_BYTES_MAX))?;
        let mut new = with_parent(&old, parent).map_err(|_| refused("Invalid argument"))?;
        let read_back = Descriptor::parse_embedded(&new).ok();
        if read_back.is_none_or(|found| found.parent_name.as_deref() != parent.map(|(name, _)| name)) {
            return Err(refused("the descriptor cannot name another parent"));
        }
        let room_bytes = if sparse.is_some() { room_bytes.min(DESCRIPTOR_BYTES_MAX) } else { DESCRIPTOR_BYTES_MAX };
        if new.len() as u64 > room_bytes {
            return Err(refused("No space left in the descriptor"));
        }
        let mut length_bytes = None;
        if sparse.is_some() {
            check_place(storage, layer, device, offset..offset + new.len().max(old.len()) as u64)?;
            new.resize(old.len(), 0);
        } else if new.len() < old.len() {
            // Until the file has its new length the rest of it is empty lines.
            length_bytes = Some(new.len() as u64);
            new.resize(old.len(), b'\n');
        }
        let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let tail = if old.len() == new.len() {
            old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(old, new)| old == new).count()
        } else {
            0
        };
        let bytes = new[start..new.len() - tail].to_vec();
        Ok(Self { layer, device, offset: offset + start as u64, bytes, length_bytes })
    }

    /// Writes the change, durably.
    ///
    /// # Errors
    /// If the device refuses.
    pub(crate) fn write(&self, storage: &mut dyn Storage) -> Result<()> {
        let failed = |error| Failure::storage(self.layer, error);
        storage.write(self.device, self.offset, &self.bytes).map_err(failed)?;
        storage.flush(self.device).map_err(failed)?;
        if let Some(length_bytes) = self.length_bytes {
            storage.resize(self.device, length_bytes).map_err(failed)?;
            storage.flush(self.device).map_err(failed)?;
        }
        Ok(())
    }
}

/// Refuses a place in a sparse file that belongs to its header, its directories or tables, or its grains.
fn check_place(storage: &mut dyn Storage, layer: u32, device: DeviceId, place: core::ops::Range<u64>) -> Result<()> {
    let sparse = Sparse::open(storage, layer, device)?;
    let header = &sparse.header;
    let mut areas: Vec<_> = core::iter::once(0..SECTOR_BYTES).collect();
    for offset in [Some(header.directory_offset), header.redundant_offset].into_iter().flatten() {
        areas.push(offset..offset.saturating_add(header.geometry.directory_entries() * 4));
        for sector in read_directory(storage, layer, device, header, offset)?.into_iter().filter(|sector| *sector != 0)
        {
            let table = u64::from(sector) * SECTOR_BYTES;
            areas.push(table..table + header.geometry.table_bytes());
        }
    }
    let is_grain = header.metadata_end_bytes != 0 && place.end > header.metadata_end_bytes;
    if is_grain
        || place.end > sparse.end_bytes
        || areas.iter().any(|area| area.start < place.end && place.start < area.end)
    {
        return Err(sparse.corrupt(format_args!("the descriptor at byte {:#x} overlaps other metadata", place.start)));
    }
    Ok(())
}
