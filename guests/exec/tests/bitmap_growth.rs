//! A base with bitmaps that grows: tables get longer, enabled bitmaps record what was written, and at no crash does a bitmap
//! that claims to be right lack a bit.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

#[path = "support/crashing.rs"]
mod crashing;
mod support;

use crashing::Crashing;
use instar_exec::memory::MemoryStorage;
use instar_formats::qcow2::bitmap::{Bitmap, BitmapDirectory, FLAG_AUTO, FLAG_IN_USE, Step};
use instar_formats::qcow2::{Access, BitmapsPointer, Header, encode_first_cluster, feature, refcount};
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, Shape, commit, empty_image, read, write};

const FORMATS: [u32; 2] = [QCOW2, QCOW2];
const CLUSTER: usize = 512;
/// Small enough for tables of one entry with bits for 512 bytes each.
const OLD_BYTES: u64 = 1 << 20;
/// Needs tables of three.
const NEW_BYTES: u64 = 5 << 20;
/// Where the overlay holds data.
const WRITTEN: [(u64, u64); 2] = [(100_000, 3000), (4 << 20, 5000)];

/// Gives an image without bitmaps some: name, flags and granularity of each; nothing is set.
fn add_bitmaps(image: &mut Vec<u8>, bitmaps: &[(&str, u32, u8)]) {
    let mut header = Header::parse(image, Access::ReadOnly).unwrap();
    let mut directory = Vec::new();
    for (name, flags, granularity_bits) in bitmaps {
        let table_offset = image.len() as u64;
        image.resize(image.len() + CLUSTER, 0);
        directory.extend(table_offset.to_be_bytes());
        directory.extend(1u32.to_be_bytes());
        directory.extend(flags.to_be_bytes());
        directory.extend([1, *granularity_bits]);
        directory.extend((name.len() as u16).to_be_bytes());
        directory.extend([0; 4]);
        directory.extend(name.as_bytes());
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    header.autoclear_features |= feature::BITMAPS;
    header.extensions.bitmaps = Some(BitmapsPointer {
        count: bitmaps.len() as u32,
        directory_size_bytes: directory.len() as u64,
        directory_offset: image.len() as u64,
    });
    image.extend(directory);
    image.resize(image.len().next_multiple_of(CLUSTER), 0);
    let first = encode_first_cluster(&header).unwrap();
    image[..CLUSTER].copy_from_slice(&first);
    let clusters = image.len() / CLUSTER;
    for cluster in 0..clusters {
        refcount::write(&mut image[2 * CLUSTER..], header.refcount_order, cluster, 1);
    }
}

/// The bitmaps of an image.
fn bitmaps(image: &[u8]) -> Vec<Bitmap> {
    let header = Header::parse(image, Access::ReadOnly).unwrap();
    let mut directory = BitmapDirectory::new(&header, header.extensions.bitmaps.unwrap()).unwrap();
    let mut found = Vec::new();
    while let Step::Entry(bitmap) = directory.step(&image[directory.next_offset() as usize..]).unwrap() {
        found.push(bitmap);
    }
    found
}

/// Whether a bitmap has a bit for a byte of the disk.
fn has_bit(image: &[u8], bitmap: &Bitmap, offset: u64) -> bool {
    let bit = (offset >> bitmap.granularity_bits) as usize;
    let place = bitmap.table_offset as usize + bit / (CLUSTER * 8) * 8;
    let entry = u64::from_be_bytes(image[place..place + 8].try_into().unwrap());
    match (entry & 0x00ff_ffff_ffff_fe00) as usize {
        0 => entry & 1 != 0,
        data => image[data + bit % (CLUSTER * 8) / 8] >> (bit % 8) & 1 != 0,
    }
}

fn chain() -> MemoryStorage {
    chain_with(&[
        ("fine", FLAG_AUTO, 9),
        ("off", 0, 9),
        ("lost", FLAG_AUTO | FLAG_IN_USE, 9),
        ("coarse", FLAG_AUTO, 16),
    ])
}

fn chain_with(granularities: &[(&str, u32, u8)]) -> MemoryStorage {
    let shape = |size_bytes, has_backing| Shape {
        version: 3,
        cluster_bits: 9,
        refcount_order: 4,
        extended_l2: false,
        size_bytes,
        has_backing,
    };
    let mut base = empty_image(&shape(OLD_BYTES, false));
    add_bitmaps(&mut base, granularities);
    let overlay = Shape { cluster_bits: 12, ..shape(NEW_BYTES, true) };
    let mut storage = MemoryStorage { devices: vec![empty_image(&overlay), base, vec![0x5a; 8192]] };
    let extents = WRITTEN.map(|(guest_offset, length_bytes)| Extent {
        guest_offset,
        length_bytes,
        source: Source::Data { device: 2, host_offset: 0 },
    });
    write(&mut storage, &FORMATS, 0, &extents);
    storage
}

#[test]
fn tables_follow_the_disk_and_bits_follow_the_writes() {
    let mut storage = chain();
    let before = read(&mut storage, &FORMATS, 0);
    commit(&mut storage, &FORMATS).unwrap();
    assert!(read(&mut storage, &FORMATS, 1) == before);
    let image = &storage.devices[1];
    let found = bitmaps(image);
    let told = |bitmap: &Bitmap| (bitmap.table_entries, bitmap.flags);
    let expected = [(3, FLAG_AUTO), (3, 0), (1, FLAG_AUTO | FLAG_IN_USE), (1, FLAG_AUTO)];
    assert_eq!(found.iter().map(told).collect::<Vec<_>>(), expected);
    for (start, length) in WRITTEN {
        for offset in (start..start + length).step_by(512) {
            assert!(has_bit(image, &found[0], offset) && has_bit(image, &found[3], offset), "{offset}");
            assert!(!has_bit(image, &found[1], offset), "a bitmap that is off records nothing");
        }
    }
    assert!(!has_bit(image, &found[0], 3 << 20), "what was not written has no bit");
    // The overlay holds whole clusters of 4 KiB.
    for (offset, is_set) in [(97_792, false), (98_304, true), (105_984, true), (106_496, false)] {
        assert_eq!(has_bit(image, &found[0], offset), is_set, "{offset}");
    }
    assert_eq!(commit(&mut storage, &FORMATS).unwrap().bytes_committed, 0, "the census agrees");
}

#[test]
fn a_directory_of_several_clusters_moves_whole() {
    let names: Vec<String> = (0..40).map(|number| format!("bitmap number {number}")).collect();
    let wanted: Vec<_> = names.iter().map(|name| (name.as_str(), FLAG_AUTO, 9)).collect();
    let mut storage = chain_with(&wanted);
    let before = read(&mut storage, &FORMATS, 0);
    commit(&mut storage, &FORMATS).unwrap();
    assert!(read(&mut storage, &FORMATS, 1) == before);
    let found = bitmaps(&storage.devices[1]);
    assert!(found.iter().map(|bitmap| bitmap.name.as_slice()).eq(names.iter().map(String::as_bytes)));
    assert!(found.iter().all(|bitmap| bitmap.table_entries == 3 && has_bit(&storage.devices[1], bitmap, 100_352)));
    assert_eq!(commit(&mut storage, &FORMATS).unwrap().bytes_committed, 0, "the census agrees");
}

#[test]
fn no_crash_leaves_a_bitmap_that_lacks_a_bit() {
    let storage = chain();
    let before = read(&mut storage.clone(), &FORMATS, 0);
    let mut counting = Crashing::new(storage.clone(), u64::MAX, 0);
    commit(&mut counting, &FORMATS).unwrap();
    for crash_at in 0..counting.requests {
        for seed in [1, 0xdead_beef_cafe, 0x1234_5678_9abc_def1] {
            let mut crashing = Crashing::new(storage.clone(), crash_at, seed);
            commit(&mut crashing, &FORMATS).unwrap_err();
            let mut survived = crashing.after_the_crash();
            assert!(read(&mut survived, &FORMATS, 0) == before, "crash at {crash_at}, seed {seed}");
            let base = read(&mut survived, &FORMATS, 1);
            let image = &survived.devices[1];
            for bitmap in bitmaps(image).iter().filter(|bitmap| bitmap.is_enabled() && !bitmap.is_in_use()) {
                for (offset, _) in base.iter().enumerate().filter(|(_, byte)| **byte != 0).step_by(256) {
                    let name = String::from_utf8_lossy(&bitmap.name);
                    assert!(
                        has_bit(image, bitmap, offset as u64),
                        "{name}: {offset}, crash at {crash_at}, seed {seed}"
                    );
                }
            }
            commit(&mut survived, &FORMATS).unwrap();
            assert!(read(&mut survived, &FORMATS, 1) == before, "second run after crash at {crash_at}, seed {seed}");
        }
    }
}
