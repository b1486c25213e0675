//! Repair of images that were not closed properly: whatever has become of the refcounts, the disk reads the same, every
//! refcount is the number of references afterwards, and a crash at any write leaves an image that can be repaired again.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

#[path = "support/crashing.rs"]
mod crashing;
#[path = "support/recount.rs"]
mod recount;
mod support;

use crashing::Crashing;
use instar_abi::report::{CommitReport, RepairItem, ReportHeader, repair_kind};
use instar_abi::wire::Wire;
use instar_exec::Storage;
use instar_exec::memory::MemoryStorage;
use instar_formats::qcow2::entry::{L1Entry, L2Entry};
use instar_formats::qcow2::{Access, Header, refcount};
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use recount::assert_refcounts_are_exact;
use support::{QCOW2, Shape, commit, empty_image, job, read, write};

const FORMATS: [u32; 2] = [QCOW2, QCOW2];
/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: u32 = 2;

/// Something that happens to the refcounts of an image.
#[derive(Clone, Debug)]
enum Damage {
    /// The refcount of some cluster becomes some number.
    Refcount { place: u64, value: u64 },
    /// A block is not in the table any more.
    LostBlock { place: u64 },
    /// A block holds nothing any more.
    EmptyBlock { place: u64 },
    /// The flag of a table entry says the opposite.
    Flag { place: u64 },
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        6 => (any::<u64>(), prop_oneof![Just(0u64), 0..3u64, any::<u64>()])
            .prop_map(|(place, value)| Damage::Refcount { place, value }),
        1 => any::<u64>().prop_map(|place| Damage::LostBlock { place }),
        1 => any::<u64>().prop_map(|place| Damage::EmptyBlock { place }),
        2 => any::<u64>().prop_map(|place| Damage::Flag { place }),
    ];
    prop::collection::vec(one, 0..12)
}

fn words(image: &[u8], offset: u64, count: usize) -> Vec<u64> {
    let bytes = &image[offset as usize..offset as usize + count * 8];
    bytes.chunks_exact(8).map(|raw| u64::from_be_bytes(raw.try_into().unwrap())).collect()
}

fn header(image: &[u8]) -> Header {
    Header::parse(image, Access::ReadOnly).unwrap()
}

/// Marks an image as dirty and damages it.
fn spoil(image: &mut [u8], damage: &[Damage]) {
    let header = header(image);
    let size = header.cluster_size_bytes() as usize;
    let geometry = header.geometry();
    image[79] |= 1;
    for one in damage {
        let table = words(image, header.refcount_table_offset, header.refcount_table_bytes() as usize / 8);
        let blocks: Vec<usize> = (0..table.len()).filter(|index| table[*index] != 0).collect();
        let pick = |place: u64| blocks.get(place as usize % blocks.len().max(1)).copied();
        match *one {
            Damage::Refcount { place, value } => {
                let cluster = place as usize % image.len().div_ceil(size);
                let per_block = geometry.refcount_block_entries() as usize;
                let Some(block) = table.get(cluster / per_block).filter(|block| **block != 0) else { continue };
                let value = value & geometry.refcount_max();
                refcount::write(&mut image[*block as usize..], header.refcount_order, cluster % per_block, value);
            }
            Damage::LostBlock { place } => {
                let Some(index) = pick(place) else { continue };
                image[header.refcount_table_offset as usize + index * 8..][..8].fill(0);
            }
            Damage::EmptyBlock { place } => {
                let Some(index) = pick(place) else { continue };
                image[table[index] as usize..][..size].fill(0);
            }
            Damage::Flag { place } => {
                let entries: Vec<usize> = (0..header.l1_entries as usize)
                    .map(|index| header.l1_offset as usize + index * 8)
                    .filter(|offset| L1Entry(words(image, *offset as u64, 1)[0]).l2_offset().is_some())
                    .collect();
                let Some(offset) = entries.get(place as usize % entries.len().max(1)) else { continue };
                let table = L1Entry(words(image, *offset as u64, 1)[0]).l2_offset().unwrap() as usize;
                let inner =
                    table + place as usize / 7 % geometry.l2_entries() as usize * geometry.l2_entry_bytes() as usize;
                let is_data = words(image, inner as u64, 1)[0] & 0x00ff_ffff_ffff_fe00 != 0;
                image[if place & 1 == 0 && is_data { inner } else { *offset }] ^= 0x80;
            }
        }
    }
}

/// Panics if a flag says something else than the refcount.
fn assert_flags_are_right(image: &[u8]) {
    let header = header(image);
    let geometry = header.geometry();
    let per_block = geometry.refcount_block_entries();
    let blocks = words(image, header.refcount_table_offset, header.refcount_table_bytes() as usize / 8);
    let is_single = |offset: u64| {
        let cluster = geometry.cluster_index(offset);
        let block = blocks[(cluster / per_block) as usize] as usize;
        refcount::read(&image[block..], header.refcount_order, (cluster % per_block) as usize) == 1
    };
    for raw in words(image, header.l1_offset, header.l1_entries as usize) {
        let Some(table) = L1Entry(raw).l2_offset() else { continue };
        assert_eq!(raw >> 63 == 1, is_single(table), "L1 entry {raw:#x}");
        for index in 0..geometry.l2_entries() as usize {
            let entry = L2Entry::read(&geometry, &image[table as usize..], index);
            if let Some(offset) = entry.host_offset(&geometry) {
                assert_eq!(entry.descriptor >> 63 == 1, is_single(offset), "L2 entry {:#x}", entry.descriptor);
            }
        }
    }
}

fn assert_is_sound(image: &[u8]) {
    assert!(!header(image).is_dirty(), "the image is marked dirty");
    assert_refcounts_are_exact(image);
    assert_flags_are_right(image);
}

fn shape(has_backing: bool) -> impl Strategy<Value = Shape> {
    (9..=16u32, 0..=6u32, prop::bool::weighted(0.2), 1..400_000u64).prop_map(move |(bits, order, extended_l2, size)| {
        Shape {
            version: 3,
            cluster_bits: if extended_l2 { bits.max(14) } else { bits },
            refcount_order: order,
            extended_l2,
            size_bytes: size.next_multiple_of(512),
            has_backing,
        }
    })
}

fn writes() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    prop::collection::vec((0..1000u64, prop_oneof![1..9000u64, 4000..120_000u64], prop::bool::weighted(0.2)), 0..6)
}

fn fill(storage: &mut MemoryStorage, layer: u32, size_bytes: u64, writes: &[(u64, u64, bool)]) {
    let extents: Vec<Extent> = writes
        .iter()
        .filter_map(|&(permille, length, is_zero)| {
            let guest_offset = size_bytes * permille / 1000;
            let length_bytes = length.min(size_bytes - guest_offset);
            let source = if is_zero { Source::Zero } else { Source::Data { device: PATTERN, host_offset: permille } };
            (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
        })
        .collect();
    write(storage, &FORMATS, layer, &extents);
}

fn images(overlay: &Shape, base: &Shape, above: &[(u64, u64, bool)], below: &[(u64, u64, bool)]) -> MemoryStorage {
    let pattern = (0..1u64 << 18).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 7) as u8 | 1).collect();
    let mut storage = MemoryStorage { devices: vec![empty_image(overlay), empty_image(base), pattern] };
    fill(&mut storage, 1, base.size_bytes, below);
    fill(&mut storage, 0, overlay.size_bytes, above);
    storage
}

/// Commits without emptying the overlay; gives what was corrected.
fn commit_and_keep(storage: &mut dyn Storage) -> Result<Vec<RepairItem>, String> {
    let mut report = vec![0; 1 << 20];
    instar_exec::commit::run(&job(&FORMATS, 1, 0), storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome != 0 {
        return Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned());
    }
    let start = ReportHeader::SIZE_BYTES + CommitReport::SIZE_BYTES;
    let payload = &report[start..start + header.payload_length_bytes as usize];
    Ok(payload.chunks_exact(RepairItem::SIZE_BYTES).map(RepairItem::get).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_are_sound_after_a_repair(
        overlay in shape(true),
        base in shape(false),
        above in writes(),
        below in writes(),
        of_overlay in damage(),
        of_base in damage(),
    ) {
        let mut storage = images(&overlay, &base, &above, &below);
        let before = read(&mut storage, &FORMATS, 0);
        spoil(&mut storage.devices[0], &of_overlay);
        spoil(&mut storage.devices[1], &of_base);
        commit_and_keep(&mut storage).unwrap();
        prop_assert!(read(&mut storage, &FORMATS, 0) == before, "the overlay reads differently");
        prop_assert!(read(&mut storage, &FORMATS, 1)[..before.len()] == before[..], "the base lacks something");
        assert_is_sound(&storage.devices[0]);
        assert_is_sound(&storage.devices[1]);
        prop_assert_eq!(commit_and_keep(&mut storage).unwrap(), vec![], "a repair leaves nothing to correct");
    }

    #[test]
    fn a_crash_in_a_repair_leaves_an_image_that_can_be_repaired(
        overlay in shape(true),
        base in shape(false),
        above in writes(),
        below in writes(),
        of_overlay in damage(),
        of_base in damage(),
        crash_permille in 0..1000u64,
        seed in any::<u64>(),
    ) {
        let mut storage = images(&overlay, &base, &above, &below);
        let before = read(&mut storage, &FORMATS, 0);
        spoil(&mut storage.devices[0], &of_overlay);
        spoil(&mut storage.devices[1], &of_base);
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        commit(&mut counting, &FORMATS).unwrap();
        let mut crashing = Crashing::new(storage, counting.requests * crash_permille / 1000, seed);
        commit(&mut crashing, &FORMATS).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(read(&mut survived, &FORMATS, 0) == before, "the overlay reads differently after the crash");
        commit(&mut survived, &FORMATS).unwrap();
        prop_assert!(read(&mut survived, &FORMATS, 0) == before, "the overlay reads differently after the second run");
        assert_is_sound(&survived.devices[0]);
        assert_flags_are_right(&survived.devices[1]);
    }
}

/// An overlay and a base, both of eight clusters with data in the first one.
fn small() -> MemoryStorage {
    let shape = |has_backing| Shape {
        version: 3,
        cluster_bits: 16,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 8 << 16,
        has_backing,
    };
    images(&shape(true), &shape(false), &[(0, 65536, false)], &[(0, 65536, false)])
}

#[test]
fn corrections_are_reported() {
    let mut storage = small();
    spoil(&mut storage.devices[1], &[Damage::Refcount { place: 5, value: 0 }]);
    let item = RepairItem { layer: 1, kind: repair_kind::REFCOUNT, subject: 5, recorded: 0, references: 1 };
    assert_eq!(commit_and_keep(&mut storage).unwrap(), vec![item]);
}

#[test]
fn what_is_more_than_refcounts_is_refused_and_stays_as_it_is() {
    let entry = |storage: &mut MemoryStorage, raw: u64| {
        storage.devices[1][4 << 16..][8..16].copy_from_slice(&raw.to_be_bytes());
        storage.devices[1][79] |= 1;
    };
    for (raw, finding) in [
        (1 << 63 | 5 << 16, "the cluster at 0x50000 is used twice"),
        (1 << 63 | 3 << 16, "the data cluster at 0x30000 overlaps something else at 0x30000"),
        (1 << 63 | 99 << 16, "the data cluster at 0x630000 lies beyond the end of the file"),
        (5 << 16 | 0x200, "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0x1)"),
    ] {
        let mut storage = small();
        entry(&mut storage, raw);
        let before = storage.devices.clone();
        let refusal = commit_and_keep(&mut storage).unwrap_err();
        assert_eq!(
            refusal,
            format!("the image was not closed properly and more than its refcounts is wrong: {finding}")
        );
        assert!(storage.devices == before, "something was written");
    }
}
