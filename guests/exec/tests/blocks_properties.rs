//! Commit into, from and through images of tables and blocks: what a guest reads stays, a crash at any write loses
//! nothing, and no file makes the engine panic.
#![expect(clippy::cast_possible_truncation, reason = "the disks of these tests are a few megabytes long")]

mod blocks_support;
#[path = "support/crashing.rs"]
mod crashing;
mod support;

use blocks_support::{Blueprint, FORMATS, empty_blocks};
use crashing::Crashing;
use instar_abi::job::{JobHeader, format, operation};
use instar_abi::report::{InfoReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{QCOW2, RAW, Shape, commit, empty_image, read, write};

const PATTERN_BYTES: u64 = 1 << 20;

/// An extent at some thousandth of the disk.
#[derive(Clone, Debug)]
struct Write {
    start_permille: u64,
    length_bytes: u64,
    is_zero: bool,
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let length = prop_oneof![1..600u64, 1..9000u64, 4000..400_000u64];
    let write = (0..1000u64, length, any::<bool>()).prop_map(|(start_permille, length_bytes, is_zero)| Write {
        start_permille,
        length_bytes,
        is_zero,
    });
    prop::collection::vec(write, 0..7)
}

fn blueprint(format: u32, has_backing: bool) -> impl Strategy<Value = Blueprint> {
    (9..=16u32, 1..3_000_000u64).prop_map(move |(block_bits, size)| Blueprint {
        format,
        block_bits,
        size_bytes: size.next_multiple_of(512),
        has_backing,
    })
}

fn any_base(has_backing: bool) -> impl Strategy<Value = Blueprint> {
    prop::sample::select(&FORMATS[..]).prop_flat_map(move |format| blueprint(format, has_backing))
}

/// Overlay, base, what lies below, and the bytes that extents are filled from.
fn images(
    overlay: (u32, Vec<u8>, u64),
    base: &Blueprint,
    deep: Option<u64>,
    written: [&[Write]; 2],
) -> (MemoryStorage, Vec<u32>) {
    let pattern: Vec<u8> = (0..PATTERN_BYTES).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 7) as u8 | 1).collect();
    let mut formats = vec![overlay.0, base.format];
    let mut devices = vec![overlay.1, empty_blocks(base)];
    if let Some(length_bytes) = deep {
        formats.push(RAW);
        devices.push((0..length_bytes).map(|index| (index >> 9) as u8 | 1).collect());
    }
    devices.push(pattern);
    let device = devices.len() as u32 - 1;
    let mut storage = MemoryStorage { devices };
    for (layer, size_bytes) in [(1, base.size_bytes), (0, overlay.2)] {
        let extents: Vec<Extent> = written[layer as usize]
            .iter()
            .filter_map(|write| {
                let guest_offset = size_bytes * write.start_permille / 1000;
                let length_bytes = write.length_bytes.min(size_bytes - guest_offset);
                let data = Source::Data { device, host_offset: write.start_permille * 37 + write.length_bytes };
                let source = if write.is_zero { Source::Zero } else { data };
                (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
            })
            .collect();
        self::write(&mut storage, &formats, layer, &extents);
    }
    (storage, formats)
}

fn qcow2_overlay(size_bytes: u64) -> (u32, Vec<u8>, u64) {
    let shape =
        Shape { version: 3, cluster_bits: 12, refcount_order: 4, extended_l2: false, size_bytes, has_backing: true };
    (QCOW2, empty_image(&shape), size_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_base_receives_what_the_overlay_showed(
        base in any_base(false),
        shrink in 0..8u64,
        above in writes(),
        below in writes(),
    ) {
        let size_bytes = base.size_bytes.saturating_sub(shrink * 512).max(512);
        let (mut storage, formats) = images(qcow2_overlay(size_bytes), &base, None, [&above, &below]);
        let (before, base_before) = (read(&mut storage, &formats, 0), read(&mut storage, &formats, 1));
        commit(&mut storage, &formats).unwrap();
        prop_assert!(read(&mut storage, &formats, 0) == before, "the overlay reads differently");
        let base_after = read(&mut storage, &formats, 1);
        prop_assert!(base_after[..before.len()] == before[..], "the base lacks what the overlay showed");
        prop_assert!(base_after[before.len()..] == base_before[before.len()..], "bytes beyond the overlay changed");
        prop_assert_eq!(commit(&mut storage, &formats).unwrap().bytes_committed, 0);
    }

    #[test]
    fn a_qed_base_grows_and_hides_what_lies_below(
        base in blueprint(format::QED, true),
        more in 1..2_000_000u64,
        deep_bytes in 1..4_000_000u64,
        above in writes(),
        below in writes(),
    ) {
        let size_bytes = (base.size_bytes + more).next_multiple_of(512);
        let deep = deep_bytes.next_multiple_of(512);
        let (mut storage, formats) = images(qcow2_overlay(size_bytes), &base, Some(deep), [&above, &below]);
        let before = read(&mut storage, &formats, 0);
        commit(&mut storage, &formats).unwrap();
        prop_assert!(read(&mut storage, &formats, 1) == before, "the base lacks what the overlay showed");
    }

    #[test]
    fn overlays_of_these_formats_are_merged(
        overlay in prop::sample::select(vec![format::QED, format::QCOW]).prop_flat_map(|format| blueprint(format, true)),
        base in any_base(false),
        above in writes(),
        below in writes(),
    ) {
        let base = Blueprint { size_bytes: overlay.size_bytes, ..base };
        let top = (overlay.format, empty_blocks(&overlay), overlay.size_bytes);
        let (mut storage, formats) = images(top, &base, None, [&above, &below]);
        let before = read(&mut storage, &formats, 0);
        let report = commit(&mut storage, &formats).unwrap();
        prop_assert!(read(&mut storage, &formats, 1) == before, "the base lacks what the overlay showed");
        prop_assert!(read(&mut storage, &formats, 0) == before, "the overlay reads differently");
        let is_emptied = overlay.format == format::QCOW;
        prop_assert_eq!(report.overlay_clusters_cleared != 0, is_emptied && report.clusters_committed != 0);
        if is_emptied {
            prop_assert_eq!(&storage.devices[0][..], &empty_blocks(&overlay)[..]);
        }
    }

    #[test]
    fn a_crash_loses_nothing_and_a_second_run_completes(
        base in any_base(false),
        above in writes(),
        below in writes(),
        crash_permille in 0..1000u64,
        seed in any::<u64>(),
    ) {
        let (storage, formats) = images(qcow2_overlay(base.size_bytes), &base, None, [&above, &below]);
        let before = read(&mut storage.clone(), &formats, 0);
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        commit(&mut counting, &formats).unwrap();
        prop_assume!(counting.requests != 0);
        let mut crashing = Crashing::new(storage, counting.requests * crash_permille / 1000, seed);
        commit(&mut crashing, &formats).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(read(&mut survived, &formats, 0) == before, "the overlay reads differently after the crash");
        commit(&mut survived, &formats).unwrap();
        prop_assert!(read(&mut survived, &formats, 1) == before, "the second run left something out");
    }

    #[test]
    fn no_file_makes_it_panic(
        base in any_base(false),
        above in writes(),
        below in writes(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..300usize, any::<u8>()), 1..8),
    ) {
        let (mut storage, formats) = images(qcow2_overlay(base.size_bytes), &base, None, [&above, &below]);
        // Most edits land where the metadata is.
        let starts = [0, 60, 340, 512, 1536, 4096, 8192, 2 << 20, (2 << 20) + (64 << 10), 3 << 20, storage.devices[1].len().saturating_sub(512)];
        for (start, skip, byte) in edits {
            let at = starts[start.index(starts.len())] + skip;
            if let Some(target) = storage.devices[1].get_mut(at) {
                *target = byte;
            }
        }
        let before = storage.devices.clone();
        if commit(&mut storage, &formats).is_err() {
            prop_assert!(storage.devices[0] == before[0], "a commit that failed changed the overlay");
        }
    }
}

#[test]
fn blocks_that_share_a_place_are_refused_before_anything_is_written() {
    for format in FORMATS {
        let base = Blueprint { format, block_bits: 12, size_bytes: 3 << 20, has_backing: false };
        let all = [0, 400, 800].map(|start_permille| Write { start_permille, length_bytes: 4096, is_zero: false });
        let (mut storage, formats) = images(qcow2_overlay(base.size_bytes), &base, None, [&all, &all]);
        let bytes = &mut storage.devices[1];
        let little = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let big = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        // The entries of the blocks at the first and at the 400th thousandth of the disk.
        let (from, to, entry_bytes) = match format {
            format::QED => (little(4096), little(4096) + 307 * 8, 8),
            format::QCOW => (big(56), big(56 + 4 * 8) + 51 * 8, 8),
            format::VDI => (512, 516, 4),
            format::VPC => (1536, 1536 + 307 * 4, 4),
            _ => (3 << 20, (3 << 20) + 8, 8),
        };
        bytes.copy_within(from..from + entry_bytes, to);
        let before = storage.devices.clone();
        let text = commit(&mut storage, &formats).unwrap_err();
        assert!(text.contains("two blocks overlap"), "{format}: {text}");
        assert!(storage.devices == before);
    }
}

#[test]
fn info_tells_sizes_and_the_backing_name() {
    for format in FORMATS {
        let blueprint = Blueprint { format, block_bits: 12, size_bytes: 3 << 20, has_backing: true };
        let mut job = support::job(&[format], 0, 0);
        let header = JobHeader { operation: operation::INFO, ..JobHeader::get(&job) };
        header.put(&mut job);
        let mut report = vec![0; 1 << 16];
        let mut storage = MemoryStorage { devices: vec![empty_blocks(&blueprint)] };
        instar_exec::info::run(&job, &mut storage, &mut report);
        assert_eq!(ReportHeader::get(&report).outcome, outcome::DONE);
        let info = InfoReport::get(&report[ReportHeader::SIZE_BYTES..]);
        let (cluster_size_bytes, name_bytes) = match format {
            format::QED | format::QCOW => (4096, 4),
            format::VPC => (4096, 0),
            _ => (1 << 20, 0),
        };
        assert_eq!((info.format, info.virtual_size_bytes), (format, 3 << 20));
        assert_eq!((info.cluster_size_bytes, info.backing_name_length_bytes), (cluster_size_bytes, name_bytes));
    }
}
