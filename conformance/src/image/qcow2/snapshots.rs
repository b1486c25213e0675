//! Internal snapshots: the table, and the image as a snapshot shows it.
//!
//! What it cannot see: the state of a virtual machine that a snapshot may hold.

use super::super::bytes::{be32, be64};
use super::super::{ImageError, Kind, Layer, bad};
use super::Qcow2;
use crate::digest::hex;
use sha2::{Digest, Sha256};
use std::path::Path;

/// qemu-img opens no image with more.
const MAX_SNAPSHOTS: u32 = 65536;
/// A damaged table must not keep the reader busy.
const MAX_EXTENTS: u64 = 1 << 18;

/// An entry of the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The identifier.
    pub id: String,
    /// The name.
    pub name: String,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    size_bytes: Option<u64>,
}

/// Reads the table; also says where it ends.
pub(super) fn read_table(image: &Qcow2) -> Result<(Vec<Snapshot>, u64), ImageError> {
    let header = &image.header;
    if header.snapshot_count > MAX_SNAPSHOTS || header.snapshot_offset > image.source.length() {
        return bad("snapshot table");
    }
    let mut at = header.snapshot_offset;
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshot_count {
        let head = image.source.bytes(at, 40)?;
        let extra = u64::from(be32(&head, 36));
        let id = u64::from(u16::from_be_bytes([head[12], head[13]]));
        let name = u64::from(u16::from_be_bytes([head[14], head[15]]));
        let end = (at + 40 + extra + id + name).next_multiple_of(8);
        if end > image.source.length().next_multiple_of(8) {
            return bad("snapshot table ends beyond the file");
        }
        let text = |offset, length| -> Result<String, ImageError> {
            Ok(String::from_utf8_lossy(&image.source.bytes(offset, length)?).into_owned())
        };
        snapshots.push(Snapshot {
            id: text(at + 40 + extra, id)?,
            name: text(at + 40 + extra + id, name)?,
            l1_offset: be64(&head, 0),
            l1_entries: u64::from(be32(&head, 8)),
            size_bytes: if extra >= 16 { Some(be64(&image.source.bytes(at + 40, 16)?, 8)) } else { None },
        });
        at = end;
    }
    Ok((snapshots, at))
}

impl Qcow2 {
    /// The entries of the snapshot table.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, ImageError> {
        Ok(read_table(self)?.0)
    }

    /// Opens the image as one of its snapshots shows it.
    pub fn open_at(path: &Path, snapshot: &Snapshot) -> Result<Self, ImageError> {
        let mut image = Self::open(path)?;
        if snapshot.l1_entries * 8 > 32 << 20 {
            return bad("L1 table of a snapshot");
        }
        let l1 = image.source.bytes(snapshot.l1_offset, snapshot.l1_entries * 8)?;
        image.l1 = l1.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        image.header.size = snapshot.size_bytes.unwrap_or(image.header.size);
        Ok(image)
    }

    /// Digest of what this layer alone holds: its extents, and the bytes of those with data.
    pub fn own_digest(&self) -> Result<String, ImageError> {
        let mut sha = Sha256::new();
        let mut run: Option<(u64, u64, Kind)> = None;
        let mut start = 0;
        for _ in 0..MAX_EXTENTS {
            if start >= self.virtual_size() {
                hash_run(&mut sha, run);
                return Ok(hex(&sha.finalize()));
            }
            let extent = self.extent_at(start)?;
            match &mut run {
                Some((_, length, kind)) if *kind == extent.kind => *length += extent.length,
                _ => {
                    hash_run(&mut sha, run);
                    run = Some((start, extent.length, extent.kind));
                }
            }
            if extent.kind == Kind::Data {
                let mut bytes = vec![0; 1 << 16];
                for offset in (start..start + extent.length).step_by(bytes.len()) {
                    let count = usize::try_from(start + extent.length - offset).unwrap_or(usize::MAX).min(bytes.len());
                    self.read_data(offset, &mut bytes[..count])?;
                    sha.update(&bytes[..count]);
                }
            }
            start += extent.length;
        }
        bad(format!("more than {MAX_EXTENTS} extents"))
    }
}

fn hash_run(sha: &mut Sha256, run: Option<(u64, u64, Kind)>) {
    if let Some((start, length, kind)) = run {
        sha.update(start.to_le_bytes());
        sha.update(length.to_le_bytes());
        sha.update([match kind {
            Kind::Absent => 0,
            Kind::Zero => 1,
            Kind::Data => 2,
        }]);
    }
}
