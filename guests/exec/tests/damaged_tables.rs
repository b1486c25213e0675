//! qcow2 images whose metadata contradicts itself: refused by name before anything is written. And headers in whose cluster a
//! table lies, which a new header would overwrite.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod support;

use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, RAW, Shape, commit, empty_image, read, write};

const CLUSTER_BYTES: usize = 512;
/// Where the parts of an image of [`base`] begin, in clusters.
const REFCOUNT_BLOCK: usize = 2;
const DISK_BYTES: u64 = 256 * CLUSTER_BYTES as u64;
const FORMATS: [u32; 2] = [QCOW2, QCOW2];
const COPIED: u64 = 1 << 63;

fn shape(has_backing: bool) -> Shape {
    Shape { version: 3, cluster_bits: 9, refcount_order: 4, extended_l2: false, size_bytes: DISK_BYTES, has_backing }
}

fn data(guest_offset: u64, length_bytes: u64) -> Extent {
    Extent { guest_offset, length_bytes, source: Source::Data { device: 2, host_offset: 0 } }
}

/// An overlay that holds the fifth cluster, on a base that holds the first two.
fn chain() -> MemoryStorage {
    let devices = vec![empty_image(&shape(true)), empty_image(&shape(false)), vec![0x5a; 1 << 16]];
    let mut storage = MemoryStorage { devices };
    write(&mut storage, &FORMATS, 1, &[data(0, 1024)]);
    write(&mut storage, &FORMATS, 0, &[data(2048, 512)]);
    storage
}

fn put(image: &mut [u8], offset: usize, value: u64) {
    image[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
}

fn word(image: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(image[offset..offset + 8].try_into().expect("eight bytes"))
}

fn offset_in(entry: u64) -> usize {
    (entry & 0x00ff_ffff_ffff_fe00) as usize
}

/// The cluster size of an image, in bytes.
fn size_of(image: &[u8]) -> usize {
    1 << image[23]
}

fn set_refcount(image: &mut [u8], cluster: usize, count: u16) {
    let place = REFCOUNT_BLOCK * size_of(image) + 2 * cluster;
    image[place..place + 2].copy_from_slice(&count.to_be_bytes());
}

/// What is said of a base that was damaged so; nothing is changed.
fn refusal(damage: impl Fn(&mut Vec<u8>)) -> String {
    let mut storage = chain();
    damage(&mut storage.devices[1]);
    let before = storage.devices.clone();
    let text = commit(&mut storage, &FORMATS).expect_err("a damaged base");
    assert!(storage.devices == before, "something was written: {text}");
    text
}

fn l1(image: &[u8]) -> usize {
    word(image, 40) as usize
}

fn l2(image: &[u8]) -> usize {
    offset_in(word(image, l1(image)))
}

#[test]
fn clusters_in_use_have_a_refcount() {
    let data = refusal(|image| {
        let cluster = offset_in(word(image, l2(image))) / CLUSTER_BYTES;
        set_refcount(image, cluster, 0);
    });
    assert!(data.contains("is in use but has refcount 0"), "{data}");
    let table = refusal(|image| {
        let cluster = l2(image) / CLUSTER_BYTES;
        set_refcount(image, cluster, 0);
    });
    assert!(table.contains("L2 table") && table.contains("refcount 0"), "{table}");
    let header = refusal(|image| set_refcount(image, 0, 0));
    assert!(header.contains("header") && header.contains("refcount 0"), "{header}");
}

#[test]
fn clusters_in_use_twice_say_so() {
    let text = refusal(|image| {
        let (table, entry) = (l2(image), word(image, l2(image)));
        put(image, table + 8, entry);
    });
    assert!(text.contains("refcount 1") || text.contains("twice") || text.contains("overlap"), "{text}");
}

#[test]
fn no_data_lies_in_any_part_of_the_metadata() {
    // A refcount table of two clusters, the second of which is behind everything else.
    let with_long_table = |image: &mut Vec<u8>| {
        let table = image.len().next_multiple_of(CLUSTER_BYTES);
        image.resize(table + 2 * CLUSTER_BYTES, 0);
        put(image, table, (REFCOUNT_BLOCK * CLUSTER_BYTES) as u64);
        put(image, 48, table as u64);
        image[56..60].copy_from_slice(&2_u32.to_be_bytes());
        set_refcount(image, 1, 0);
        for cluster in [table / CLUSTER_BYTES, table / CLUSTER_BYTES + 1] {
            set_refcount(image, cluster, 1);
        }
        table
    };
    let mut sound = chain();
    with_long_table(&mut sound.devices[1]);
    let wanted = read(&mut sound, &FORMATS, 0);
    commit(&mut sound, &FORMATS).expect("a sound base");
    assert!(read(&mut sound, &FORMATS, 1) == wanted);
    for part in 0..2 {
        let text = refusal(|image| {
            let table = with_long_table(image);
            let place = l2(image) + 8 * 7;
            put(image, place, (table + part * CLUSTER_BYTES) as u64 | COPIED);
        });
        assert!(text.contains("refcount 1") || text.contains("overlap"), "part {part}: {text}");
    }
    for cluster in [REFCOUNT_BLOCK, 3] {
        let text = refusal(|image| {
            let place = l2(image) + 8 * 7;
            put(image, place, (cluster * CLUSTER_BYTES) as u64 | COPIED);
        });
        assert!(text.contains("refcount 1") || text.contains("overlap"), "cluster {cluster}: {text}");
    }
}

#[test]
fn emptying_leaves_no_refcount_and_no_unknown_bit() {
    for (cluster_bits, bit) in [(9, 1_u64 << 5), (12, 1 << 40), (12, 0), (9, 0)] {
        let shape = Shape { cluster_bits, size_bytes: 8 << 20, ..shape(true) };
        let devices = vec![empty_image(&shape), vec![0; 8 << 20], vec![0x5a; 4 << 20]];
        let mut storage = MemoryStorage { devices };
        let formats = [QCOW2, RAW];
        // More clusters than the first sector of a refcount block counts.
        write(&mut storage, &formats, 0, &[data(0, 3 << 20)]);
        put(&mut storage.devices[0], 88, bit);
        commit(&mut storage, &formats).expect("a sound chain");
        let overlay = &storage.devices[0];
        assert_eq!((word(overlay, 72), word(overlay, 88)), (0, 0), "{cluster_bits} {bit:#x}");
        let size = 1_usize << cluster_bits;
        let clusters = overlay.len() / size;
        let table = word(overlay, 48) as usize;
        let block = offset_in(word(overlay, table));
        assert_ne!(block, 0);
        for cluster in 0..size / 2 {
            let count = u16::from_be_bytes([overlay[block + 2 * cluster], overlay[block + 2 * cluster + 1]]);
            assert_eq!(count, u16::from(cluster < clusters), "cluster {cluster} of {clusters} ({cluster_bits})");
        }
    }
}

/// Gives the base a snapshot of the clusters that it holds; where its L1 table and the snapshot table lie, in clusters.
fn add_snapshot(image: &mut Vec<u8>, held: &[usize]) -> (usize, usize) {
    let size = size_of(image);
    let l1_cluster = image.len().div_ceil(size);
    image.resize((l1_cluster + 2) * size, 0);
    // What both share has two references, and says so.
    let (active, table) = (l1(image), l2(image));
    put(image, active, table as u64);
    set_refcount(image, table / size, 2);
    for index in held {
        let data = offset_in(word(image, table + 8 * index));
        put(image, table + 8 * index, data as u64);
        set_refcount(image, data / size, 2);
    }
    let place = l1_cluster * size;
    put(image, place, table as u64);
    let entry = place + size;
    put(image, entry, place as u64);
    let l1_entries: [u8; 4] = image[36..40].try_into().expect("four bytes");
    image[entry + 8..entry + 12].copy_from_slice(&l1_entries);
    image[entry + 12..entry + 16].copy_from_slice(&[0, 1, 0, 1]);
    image[entry + 39] = 16;
    let disk_bytes = word(image, 24);
    put(image, entry + 48, disk_bytes);
    image[entry + 56..entry + 58].copy_from_slice(b"1s");
    image[60..64].copy_from_slice(&1_u32.to_be_bytes());
    put(image, 64, entry as u64);
    for cluster in [l1_cluster, l1_cluster + 1] {
        set_refcount(image, cluster, 1);
    }
    (l1_cluster, l1_cluster + 1)
}

#[test]
fn what_belongs_to_a_snapshot_has_a_refcount_and_stays() {
    let mut storage = chain();
    write(&mut storage, &FORMATS, 0, &[data(512, 512)]);
    let (l1_cluster, _) = add_snapshot(&mut storage.devices[1], &[0, 1]);
    let of_snapshot = |image: &[u8]| {
        let table = offset_in(word(image, l1_cluster * CLUSTER_BYTES));
        [table, table + 8].map(|entry| image[offset_in(word(image, entry))..][..CLUSTER_BYTES].to_vec())
    };
    let (before, shown) = (of_snapshot(&storage.devices[1]), read(&mut storage, &FORMATS, 0));
    commit(&mut storage, &FORMATS).expect("a sound base");
    assert!(read(&mut storage, &FORMATS, 1) == shown);
    assert!(of_snapshot(&storage.devices[1]) == before, "the snapshot shows something else");

    for (part, what) in [(0, "snapshot L1 table"), (1, "snapshot table")] {
        let text = refusal(|image| {
            let clusters = add_snapshot(image, &[0, 1]);
            set_refcount(image, if part == 0 { clusters.0 } else { clusters.1 }, 0);
        });
        assert!(text.contains(what) && text.contains("refcount 0"), "{text}");
    }
}

#[test]
fn a_long_table_that_is_shared_is_copied_whole() {
    // Tables of 128 KiB are read in two parts; the last entry lies in the second one.
    let (size, last) = (128_u64 << 10, 12_000);
    let shape = |has_backing| Shape { cluster_bits: 17, size_bytes: 2 << 30, ..shape(has_backing) };
    let devices = vec![empty_image(&shape(true)), empty_image(&shape(false)), vec![0x5a; size as usize]];
    let mut storage = MemoryStorage { devices };
    write(&mut storage, &FORMATS, 1, &[data(0, size), data(last * size, size)]);
    write(&mut storage, &FORMATS, 0, &[data(0, size)]);
    add_snapshot(&mut storage.devices[1], &[0, last as usize]);
    let shared = l2(&storage.devices[1]);
    let kept = word(&storage.devices[1], shared + 8 * last as usize);
    commit(&mut storage, &FORMATS).expect("a sound base");
    let image = &storage.devices[1];
    let own = l2(image);
    assert_ne!(own, shared);
    assert_eq!(offset_in(word(image, own + 8 * last as usize)), offset_in(kept));
    assert_ne!(offset_in(word(image, own)), offset_in(word(image, shared)));
}

#[test]
fn a_new_long_table_leaves_its_neighbours_alone() {
    // A table of 128 KiB stands for 2 GiB, and is kept in two parts; before the new one lies a cluster of data.
    let size = 128_u64 << 10;
    let shape = |has_backing| Shape { cluster_bits: 17, size_bytes: 4 << 30, ..shape(has_backing) };
    let devices = vec![empty_image(&shape(true)), empty_image(&shape(false)), vec![0x5a; size as usize]];
    let mut storage = MemoryStorage { devices };
    write(&mut storage, &FORMATS, 1, &[data(0, size)]);
    write(&mut storage, &FORMATS, 0, &[data(2 << 30, size)]);
    let before = storage.devices[1].clone();
    commit(&mut storage, &FORMATS).expect("a sound base");
    let image = &storage.devices[1];
    let first = offset_in(word(image, l2(image)));
    assert!(image[first..first + size as usize].iter().all(|byte| *byte == 0x5a));
    let second = offset_in(word(image, l1(image) + 8));
    assert!(second >= before.len(), "the table lies behind everything else");
    assert_ne!(offset_in(word(image, second)), 0);
}
