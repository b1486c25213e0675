//! An independent qcow2 reader: L1 and L2 lookups, extended entries, compressed clusters, external data files.

mod bitmaps;
mod check;
mod entries;
pub(crate) mod header;
mod refcounts;
mod snapshots;

pub use bitmaps::Bitmap;
pub use check::{CheckResult, check, check_in};
pub use snapshots::Snapshot;

use super::{Backing, Extent, Files, ImageError, Kind, Layer, OnDisk, Source, bad};
use entries::{Cluster, L2Entry};
use header::Header;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

/// A qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    source: Source,
    header: Header,
    l1: Vec<u64>,
    data: Option<Source>,
    l2_cache: RefCell<HashMap<u64, Rc<Vec<u8>>>>,
    inflated: RefCell<Option<(u64, Vec<u8>)>>,
}

impl Qcow2 {
    /// Opens the image and its external data file.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::open_in(&OnDisk, path)
    }

    /// As [`Qcow2::open`], with the files looked up in `among`.
    pub fn open_in(among: &dyn Files, path: &Path) -> Result<Self, ImageError> {
        let source = among.open(path)?;
        let header = Header::read(&source)?;
        let needed =
            header.size.div_ceil(header.cluster_size()).div_ceil(header.cluster_size() / header.l2_entry_size());
        if u64::from(header.l1_size) < needed {
            return bad("L1 table is too small");
        }
        let l1 = source.bytes(header.l1_offset, u64::from(header.l1_size) * 8)?;
        let l1 = l1.chunks_exact(8).map(|entry| super::bytes::be64(entry, 0)).collect();
        let data = match &header.data_file {
            Some(name) => Some(among.open(&path.parent().unwrap_or(Path::new("")).join(name))?),
            None => None,
        };
        Ok(Self { source, header, l1, data, l2_cache: RefCell::default(), inflated: RefCell::default() })
    }

    /// Whether the image is marked dirty or corrupt.
    pub fn flagged(&self) -> bool {
        self.header.incompatible & (header::DIRTY | header::CORRUPT) != 0
    }

    /// Persistent bitmaps with their contents.
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, ImageError> {
        bitmaps::read(self)
    }

    /// The bitmaps that record writes.
    pub fn enabled_bitmaps(&self) -> Result<Vec<Bitmap>, ImageError> {
        Ok(self.bitmaps()?.into_iter().filter(|bitmap| bitmap.enabled && !bitmap.in_use).collect())
    }

    /// Length of a cluster in bytes.
    pub fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    /// Bytes of host clusters inside of the file that nothing uses, as the refcounts have it.
    pub fn free_bytes(&self) -> Result<u64, ImageError> {
        let stored = refcounts::Stored::read(&self.source, &self.header)?;
        let clusters = self.source.length().div_ceil(self.header.cluster_size());
        let used = stored.counts.range(..clusters).count() as u64;
        Ok((clusters - used) * self.header.cluster_size())
    }

    /// Whether the last cluster holds bytes behind the end of the disk that are not zero.
    fn holds_bytes_behind_end(&self) -> Result<bool, ImageError> {
        let (size, cluster_size) = (self.header.size, self.header.cluster_size());
        let end = size.next_multiple_of(cluster_size);
        let mut offset = size;
        while offset < end {
            let mut extent = self.extent_of_cluster(offset)?;
            extent.length = extent.length.min(end - offset);
            let mut bytes = vec![0; usize::try_from(extent.length).map_err(|_| ImageError("cluster size".into()))?];
            if extent.kind == Kind::Data {
                self.read_data(offset, &mut bytes)?;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            offset += extent.length;
        }
        Ok(false)
    }

    /// Words for what tells this image from others.
    pub fn features(&self) -> Vec<&'static str> {
        let header = &self.header;
        let mut words = vec![if header.version == 2 { "v2" } else { "v3" }];
        let mut add = |holds: bool, word| {
            if holds {
                words.push(word);
            }
        };
        add(header.incompatible & header::DIRTY != 0, "dirty");
        add(header.extended_l2(), "subclusters");
        add(header.zstd, "zstd");
        add(header.data_file.is_some(), "data-file");
        add(header.data_file.is_some() && header.autoclear & 2 != 0, "data-file-raw");
        add(header.snapshot_count != 0, "snapshots");
        add(header.bitmaps.is_some() && header.autoclear & 1 != 0, "bitmaps");
        add(header.backing.is_some(), "backing");
        add(self.holds_bytes_behind_end().unwrap_or(false), "bytes-behind-end");
        words
    }

    /// Clusters of guest data that one L2 table maps.
    fn l2_entries(&self) -> u64 {
        self.header.cluster_size() / self.header.l2_entry_size()
    }

    fn l2_table(&self, l1_entry: u64) -> Result<Option<Rc<Vec<u8>>>, ImageError> {
        let offset = l1_entry & entries::OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.header.cluster_size()) {
            return bad(format!("L2 table offset {offset:#x} unaligned"));
        }
        if let Some(table) = self.l2_cache.borrow().get(&offset) {
            return Ok(Some(Rc::clone(table)));
        }
        let table = Rc::new(self.source.bytes(offset, self.header.cluster_size())?);
        self.l2_cache.borrow_mut().insert(offset, Rc::clone(&table));
        Ok(Some(table))
    }

    /// The entry of a guest cluster; `Err(n)` in the inner result: no L2 table for the next `n` clusters.
    fn lookup(&self, cluster: u64) -> Result<Result<L2Entry, u64>, ImageError> {
        let per_table = self.l2_entries();
        let index = usize::try_from(cluster / per_table).map_err(|_| ImageError("L1 index".into()))?;
        let l1_entry = self.l1.get(index).copied().unwrap_or(0);
        match self.l2_table(l1_entry)? {
            Some(table) => Ok(Ok(L2Entry::read(&table, cluster % per_table, &self.header))),
            None => {
                let empty = self.l1[index.min(self.l1.len())..].iter().take_while(|e| **e & entries::OFFSET_MASK == 0);
                Ok(Err(per_table * (empty.count().max(1) as u64) - cluster % per_table))
            }
        }
    }

    fn extent_of_cluster(&self, offset: u64) -> Result<Extent, ImageError> {
        let size = self.header.cluster_size();
        let (cluster, inside) = (offset / size, offset % size);
        let entry = match self.lookup(cluster)? {
            Ok(entry) => entry,
            Err(clusters) => return Ok(Extent { length: clusters * size - inside, kind: Kind::Absent }),
        };
        if !self.header.extended_l2() {
            return Ok(Extent { length: size - inside, kind: entry.cluster_kind(&self.header)? });
        }
        let part = size / 32;
        let kind = entry.subcluster_kind(inside / part, &self.header)?;
        Ok(Extent { length: part - inside % part, kind })
    }

    fn inflate(&self, offset: u64, length: u64) -> Result<Vec<u8>, ImageError> {
        let size = usize::try_from(self.header.cluster_size()).map_err(|_| ImageError("cluster size".into()))?;
        let packed = self.source.bytes(offset, length)?;
        let mut plain = vec![0; size];
        if self.header.zstd {
            let mut decoder = zstd::stream::Decoder::new(&packed[..])?;
            decoder.read_exact(&mut plain)?;
            return Ok(plain);
        }
        let mut state = miniz_oxide::inflate::core::DecompressorOxide::new();
        let flags = miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (_, _, written) = miniz_oxide::inflate::core::decompress(&mut state, &packed, &mut plain, 0, flags);
        if written < size { bad(format!("compressed cluster at {offset:#x} is too short")) } else { Ok(plain) }
    }
}

impl Layer for Qcow2 {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let left = self.header.size - offset;
        let mut extent = self.extent_of_cluster(offset)?;
        // Merged up to 16 MiB: enough to be quick, short enough to stay lazy. Data extents stay whole clusters.
        while extent.length < left && extent.length < 16 << 20 {
            let next = self.extent_of_cluster(offset + extent.length)?;
            if next.kind != extent.kind {
                break;
            }
            extent.length += next.length;
        }
        extent.length = extent.length.min(left);
        Ok(extent)
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let size = self.header.cluster_size();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = at % size;
            let count = usize::try_from(size - inside).unwrap_or(usize::MAX).min(buf.len() - done);
            let part = &mut buf[done..done + count];
            let Ok(entry) = self.lookup(at / size)? else { return bad("no L2 table under a data extent") };
            match entry.cluster(&self.header) {
                Cluster::Compressed { offset, length } => {
                    let mut inflated = self.inflated.borrow_mut();
                    if inflated.as_ref().is_none_or(|(key, _)| *key != offset) {
                        *inflated = Some((offset, self.inflate(offset, length)?));
                    }
                    let plain = &inflated.as_ref().expect("just filled").1;
                    let from = usize::try_from(inside).map_err(|_| ImageError("offset".into()))?;
                    part.copy_from_slice(&plain[from..from + count]);
                }
                Cluster::Standard { offset, .. } => {
                    self.data.as_ref().unwrap_or(&self.source).read(offset + inside, part)?
                }
            }
            done += count;
        }
        Ok(())
    }

    fn backing(&self) -> Option<&Backing> {
        self.header.backing.as_ref()
    }

    fn data_file(&self) -> Option<&str> {
        self.header.data_file.as_deref()
    }

    fn imago_reads(&self) -> bool {
        let plain_name = self.header.backing.as_ref().is_none_or(|backing| !backing.name.starts_with("json:"));
        plain_name && !self.flagged() && !self.header.extended_l2() && !self.header.zstd
    }
}
