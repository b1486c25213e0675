//! The qcow2 header and its extensions, as the format document gives them (docs/interop/qcow2 of the format's project).

use super::super::bytes::{be32, be64};
use super::super::{Backing, ImageError, Source, bad};

/// Incompatible feature bits.
pub(crate) const DIRTY: u64 = 1;
/// Bit 1: the image is corrupt.
pub(crate) const CORRUPT: u64 = 2;
/// Bit 2: data clusters lie in an external file.
pub(crate) const EXTERNAL_DATA: u64 = 4;
const COMPRESSION_TYPE: u64 = 8;
/// Bit 4: L2 entries carry a subcluster bitmap.
pub(crate) const EXTENDED_L2: u64 = 16;
const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

/// Position of the bitmap directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bitmaps {
    pub(crate) count: u32,
    pub(crate) directory_size: u64,
    pub(crate) directory_offset: u64,
}

/// What the header says.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    pub(crate) l1_size: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) snapshot_count: u32,
    pub(crate) snapshot_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) refcount_order: u32,
    pub(crate) zstd: bool,
    pub(crate) backing: Option<Backing>,
    pub(crate) data_file: Option<String>,
    pub(crate) bitmaps: Option<Bitmaps>,
}

impl Header {
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible & EXTENDED_L2 != 0
    }

    /// Bytes of one L2 entry.
    pub(crate) fn l2_entry_size(&self) -> u64 {
        if self.extended_l2() { 16 } else { 8 }
    }

    /// Reads and checks the header; refuses what no reader may open.
    pub(crate) fn read(source: &Source) -> Result<Self, ImageError> {
        let head = source.bytes(0, 112)?;
        let version = be32(&head, 4);
        if &head[..4] != b"QFI\xfb" || !(2..=3).contains(&version) {
            return bad("not a qcow2 image of version 2 or 3");
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return bad(format!("cluster_bits {cluster_bits}"));
        }
        let v3 = version == 3;
        let header_length = if v3 { be32(&head, 100) } else { 72 };
        let incompatible = if v3 { be64(&head, 72) } else { 0 };
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return bad(format!("incompatible features {incompatible:#x}"));
        }
        if be32(&head, 32) != 0 {
            return bad("encrypted image");
        }
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(&head, 24),
            l1_size: be32(&head, 36),
            l1_offset: be64(&head, 40),
            refcount_table_offset: be64(&head, 48),
            refcount_table_clusters: be32(&head, 56),
            snapshot_count: be32(&head, 60),
            snapshot_offset: be64(&head, 64),
            incompatible,
            autoclear: if v3 { be64(&head, 88) } else { 0 },
            refcount_order: if v3 { be32(&head, 96) } else { 4 },
            zstd: incompatible & COMPRESSION_TYPE != 0 && head[104] == 1,
            backing: None,
            data_file: None,
            bitmaps: None,
        };
        if header.refcount_order > 6 {
            return bad("refcount order");
        }
        if u64::from(header.l1_size) * 8 > 32 << 20 {
            return bad("active L1 table too large");
        }
        if header.l1_offset >= 1 << 56 || !header.l1_offset.is_multiple_of(header.cluster_size()) {
            return bad("active L1 table offset");
        }
        let format = header.read_extensions(source, u64::from(header_length))?;
        let (name_offset, name_length) = (be64(&head, 8), u64::from(be32(&head, 16)));
        if name_offset != 0 {
            if name_length > 1023 || name_offset > header.cluster_size() - name_length.min(header.cluster_size()) {
                return bad("backing file name");
            }
            let name = String::from_utf8_lossy(&source.bytes(name_offset, name_length)?).into_owned();
            if !name.is_empty() {
                header.backing = Some(Backing { name, format });
            }
        }
        Ok(header)
    }

    /// Walks the extensions; returns the recorded backing format.
    fn read_extensions(&mut self, source: &Source, start: u64) -> Result<Option<String>, ImageError> {
        let mut at = start;
        let mut format = None;
        while at + 8 <= self.cluster_size() {
            let head = source.bytes(at, 8)?;
            let (magic, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
            if magic == 0 {
                break;
            }
            if at + 8 + length > self.cluster_size() {
                return bad("header extension too large");
            }
            let body = source.bytes(at + 8, length)?;
            match magic {
                0xe279_2aca => format = Some(String::from_utf8_lossy(&body).into_owned()),
                0x4441_5441 if self.incompatible & EXTERNAL_DATA != 0 => {
                    self.data_file = Some(String::from_utf8_lossy(&body).into_owned());
                }
                0x2385_2875 => {
                    self.bitmaps = Some(Bitmaps {
                        count: be32(&body, 0),
                        directory_size: be64(&body, 8),
                        directory_offset: be64(&body, 16),
                    });
                }
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(format)
    }
}
