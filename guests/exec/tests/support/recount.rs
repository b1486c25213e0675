//! Counts what refers to each host cluster of a qcow2 image without snapshots or bitmaps, and compares with the refcounts.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

use instar_formats::qcow2::entry::{L1Entry, L2Entry};
use instar_formats::qcow2::{Access, Header, refcount};

/// Panics if any refcount is not exactly the number of references.
pub(crate) fn assert_refcounts_are_exact(image: &[u8]) {
    let header = Header::parse(image, Access::ReadOnly).unwrap();
    let geometry = header.geometry();
    let size = header.cluster_size_bytes() as usize;
    let clusters = image.len().div_ceil(size);
    let mut references = vec![0; clusters];
    let mut refer = |offset: usize, length: usize| {
        for count in &mut references[offset / size..(offset + length).div_ceil(size)] {
            *count += 1;
        }
    };
    let words = |offset: usize, count: usize| -> Vec<u64> {
        let bytes = &image[offset..offset + count * 8];
        bytes.chunks_exact(8).map(|raw| u64::from_be_bytes(raw.try_into().unwrap())).collect()
    };
    refer(0, 1);
    let l1_entries = header.l1_entries as usize;
    refer(header.l1_offset as usize, l1_entries * 8);
    let table_bytes = header.refcount_table_bytes() as usize;
    refer(header.refcount_table_offset as usize, table_bytes);
    let blocks = words(header.refcount_table_offset as usize, table_bytes / 8);
    for block in blocks.iter().filter(|block| **block != 0) {
        refer(*block as usize, size);
    }
    for table in words(header.l1_offset as usize, l1_entries).into_iter().filter_map(|raw| L1Entry(raw).l2_offset()) {
        refer(table as usize, size);
        for index in 0..geometry.l2_entries() as usize {
            let entry = L2Entry::read(&geometry, &image[table as usize..], index);
            if let Some(range) = entry.compressed_range(&geometry) {
                refer(range.host_offset as usize, range.length_bytes as usize);
            } else if let Some(offset) = entry.host_offset(&geometry) {
                refer(offset as usize, size);
            }
        }
    }
    let per_block = geometry.refcount_block_entries() as usize;
    for (cluster, count) in references.into_iter().enumerate() {
        let recorded = match blocks.get(cluster / per_block) {
            Some(block) if *block != 0 => {
                refcount::read(&image[*block as usize..], header.refcount_order, cluster % per_block)
            }
            _ => 0,
        };
        assert_eq!(recorded, count, "refcount of cluster {cluster}");
    }
}
