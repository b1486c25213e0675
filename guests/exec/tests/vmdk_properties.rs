//! Commit into random vmdk images in memory: what a guest reads stays, both sets of grain tables agree, a crash at any write
//! leaves a chain that still reads the same, and damaged images end in an error and not in a panic.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

#[path = "support/crashing.rs"]
mod crashing;
mod support;
mod vmdk_support;

use crashing::Crashing;
use instar_abi::job::{DeviceEntry, JobHeader, commit_flag, format, role};
use instar_abi::report::{ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{QCOW2, RAW, Shape, commit, commit_with, empty_image, job, read, write};
use vmdk_support::{Sparse, descriptor, sparse};

/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: u32 = 2;
const VMDK: u32 = format::VMDK;
const BASE_CID: u32 = 0x00ab_c123;
const NO_PARENT: u32 = u32::MAX;

fn pattern() -> Vec<u8> {
    (0..1u64 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 7) as u8 | 1).collect()
}

fn extents() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    let length = prop_oneof![1..600u64, 1..9000u64, 4000..200_000u64];
    prop::collection::vec((0..1000u64, length, any::<bool>()), 0..8)
}

fn resolved(extents: &[(u64, u64, bool)], size_bytes: u64) -> Vec<Extent> {
    let resolve = |&(permille, length, is_zero): &(u64, u64, bool)| {
        let guest_offset = size_bytes * permille / 1000;
        let host_offset = permille * 37 + length;
        let source = if is_zero { Source::Zero } else { Source::Data { device: PATTERN, host_offset } };
        Extent { guest_offset, length_bytes: length.min(size_bytes - guest_offset), source }
    };
    extents.iter().map(resolve).filter(|extent| extent.length_bytes != 0).collect()
}

fn shape(cid: u32, parent_cid: u32) -> impl Strategy<Value = Sparse> {
    let sizes = (1..1500u64, 1..200u64, prop_oneof![Just(512u32), 1..40u32]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (sizes, flags).prop_map(move |((sectors, grain_sectors, table_entries), flags)| Sparse {
        sectors,
        grain_sectors,
        table_entries,
        zeroed_grains: flags.0,
        redundant: flags.1,
        compressed: flags.2,
        preallocated: flags.3,
        cid,
        parent_cid,
    })
}

/// An overlay, vmdk or qcow2, over a vmdk base that is at least as large, and the bytes that both hold.
fn images(
    overlay: &Sparse,
    is_vmdk: bool,
    base: &Sparse,
    above: &[(u64, u64, bool)],
    below: &[(u64, u64, bool)],
) -> (MemoryStorage, [u32; 2]) {
    let overlay = Sparse { sectors: overlay.sectors.min(base.sectors), ..overlay.clone() };
    let size_bytes = overlay.sectors * 512;
    let top = if is_vmdk {
        sparse(&overlay)
    } else {
        let (version, cluster_bits, refcount_order) = (3, 9 + u32::from(overlay.redundant) * 3, 4);
        empty_image(&Shape { version, cluster_bits, refcount_order, extended_l2: false, size_bytes, has_backing: true })
    };
    let mut storage = MemoryStorage { devices: vec![top, sparse(base), pattern()] };
    let formats = [if is_vmdk { VMDK } else { QCOW2 }, VMDK];
    write(&mut storage, &formats, 1, &resolved(below, base.sectors * 512));
    // Whatever is written to the base gives it another identifier or not; the overlay is made for the one that it has.
    if is_vmdk {
        storage.devices[0] = sparse(&Sparse { parent_cid: cid_of(&storage.devices[1]), ..overlay });
    }
    write(&mut storage, &formats, 0, &resolved(above, size_bytes));
    (storage, formats)
}

/// Empties the overlay where that can be done.
fn flags(overlay: &Sparse, is_vmdk: bool) -> u32 {
    if is_vmdk && overlay.compressed { 0 } else { commit_flag::EMPTY_OVERLAY }
}

fn cid_of(image: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(&image[512..1536]).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("CID=")).unwrap();
    u32::from_str_radix(line, 16).unwrap()
}

/// The grain tables that a directory leads to, one behind the other; empty where there is no such directory.
fn tables(image: &[u8], directory_field: usize, shape: &Sparse) -> Vec<u8> {
    let sector = |at: usize, width: usize| -> usize {
        image[at..at + width].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let directory = sector(directory_field, 8) * 512;
    let count = shape.sectors.div_ceil(shape.grain_sectors * u64::from(shape.table_entries)) as usize;
    let length = shape.table_entries as usize * 4;
    let mut all = Vec::new();
    for table in (0..count).map(|index| sector(directory + index * 4, 4) * 512) {
        all.extend_from_slice(if table == 0 { &[] } else { &image[table..table + length] });
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_base_receives_what_the_overlay_showed(
        overlay in shape(1, BASE_CID),
        is_vmdk: bool,
        base in shape(BASE_CID, NO_PARENT),
        above in extents(),
        below in extents(),
    ) {
        let (mut storage, formats) = images(&overlay, is_vmdk, &base, &above, &below);
        let before = read(&mut storage, &formats, 0);
        let base_before = read(&mut storage, &formats, 1);
        let (overlay_bytes, base_cid) = (storage.devices[0].clone(), cid_of(&storage.devices[1]));
        let flags = flags(&overlay, is_vmdk);
        let tally = commit_with(&mut storage, &formats, flags).unwrap();
        prop_assert!(read(&mut storage, &formats, 0) == before, "the overlay reads differently");
        let base_after = read(&mut storage, &formats, 1);
        prop_assert!(base_after[..before.len()] == before, "the base lacks what the overlay showed");
        prop_assert!(base_after[before.len()..] == base_before[before.len()..], "bytes beyond the overlay changed");
        if base.redundant {
            let image = &storage.devices[1];
            prop_assert!(tables(image, 48, &base) == tables(image, 56, &base), "the two sets of grain tables differ");
        }
        let keeps_cid = is_vmdk || tally.bytes_committed == 0;
        prop_assert_eq!(cid_of(&storage.devices[1]) == base_cid, keeps_cid);
        if flags == 0 {
            prop_assert!(storage.devices[0] == overlay_bytes, "the overlay was touched");
        } else if is_vmdk {
            let (image, shape) = (&storage.devices[0], Sparse { sectors: overlay.sectors.min(base.sectors), ..overlay });
            prop_assert!(image.len() <= overlay_bytes.len());
            prop_assert!(tables(image, 56, &shape).iter().all(|byte| *byte == 0), "the overlay holds something");
            prop_assert!(!shape.redundant || tables(image, 48, &shape).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_crash_loses_nothing_and_a_second_run_completes(
        overlay in shape(1, BASE_CID),
        is_vmdk: bool,
        base in shape(BASE_CID, NO_PARENT),
        above in extents(),
        below in extents(),
        crash_permille in 0..1000u64,
        seed: u64,
    ) {
        let (storage, formats) = images(&overlay, is_vmdk, &base, &above, &below);
        let before = read(&mut storage.clone(), &formats, 0);
        let flags = flags(&overlay, is_vmdk);
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        commit_with(&mut counting, &formats, flags).unwrap();
        prop_assume!(counting.requests != 0);
        let mut crashing = Crashing::new(storage, counting.requests * crash_permille / 1000, seed);
        commit_with(&mut crashing, &formats, flags).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(read(&mut survived, &formats, 0) == before, "the overlay reads differently after the crash");
        commit_with(&mut survived, &formats, flags).unwrap();
        prop_assert!(read(&mut survived, &formats, 0) == before, "the overlay reads differently after the second run");
        prop_assert!(read(&mut survived, &formats, 1)[..before.len()] == before, "the second run left something out");
    }

    #[test]
    fn damaged_images_never_panic(
        overlay in shape(1, BASE_CID),
        base in shape(BASE_CID, NO_PARENT),
        damage in prop::collection::vec((any::<bool>(), 0..4000usize, any::<u8>()), 1..8),
        cut in prop::option::of(0..8000usize),
    ) {
        let writes = [(0, 150_000, false), (500, 9000, false)];
        let (mut storage, formats) = images(&overlay, true, &base, &writes, &writes[..1]);
        for (in_base, at, byte) in damage {
            let image = &mut storage.devices[usize::from(in_base)];
            let at = at % image.len();
            image[at] = byte;
        }
        if let Some(cut) = cut {
            storage.devices[1].truncate(cut);
        }
        let _ = commit(&mut storage, &formats);
    }
}

fn plain(sectors: u64, cid: u32, parent_cid: u32) -> Sparse {
    Sparse {
        sectors,
        grain_sectors: 128,
        table_entries: 512,
        zeroed_grains: false,
        redundant: true,
        compressed: false,
        preallocated: true,
        cid,
        parent_cid,
    }
}

fn refusal(overlay: &Sparse, base: Vec<u8>) -> (String, bool) {
    let devices = vec![sparse(overlay), base, pattern()];
    let mut storage = MemoryStorage { devices };
    write(
        &mut storage,
        &[VMDK],
        0,
        &[Extent { guest_offset: 0, length_bytes: 1024, source: Source::Data { device: PATTERN, host_offset: 0 } }],
    );
    let before = storage.devices.clone();
    let text = commit(&mut storage, &[VMDK, VMDK]).unwrap_err();
    (text, before == storage.devices)
}

#[test]
fn a_base_that_is_too_small_is_refused_before_anything_is_written() {
    let base = sparse(&plain(2047, BASE_CID, NO_PARENT));
    assert_eq!(refusal(&plain(2048, 1, BASE_CID), base), ("Operation not supported".into(), true));
}

#[test]
fn grains_on_metadata_or_on_each_other_are_refused() {
    let shape = plain(2048, BASE_CID, NO_PARENT);
    let first_table = u32::from_le_bytes(sparse(&shape)[3 * 512..][..4].try_into().unwrap()) as usize * 512;
    for (entries, finding) in [
        ([1u32, 0], "grain offset 0x200 overlaps metadata (grain: 0x0)"),
        ([128, 128], "grain offset 0x10000 is used by another grain (grain: 0x1)"),
        ([1 << 20, 0], "grain offset 0x20000000 beyond the end of the file (grain: 0x0)"),
    ] {
        let mut base = sparse(&shape);
        base.resize(512 * 512, 0);
        for (index, entry) in entries.iter().enumerate() {
            base[first_table + index * 4..][..4].copy_from_slice(&entry.to_le_bytes());
        }
        assert_eq!(refusal(&plain(2048, 1, BASE_CID), base), (finding.into(), true));
    }
}

#[test]
fn a_chain_whose_identifiers_do_not_match_is_not_read_through() {
    let devices = vec![
        sparse(&plain(2048, 1, 0x99)),
        sparse(&plain(2048, 2, BASE_CID)),
        sparse(&plain(2048, BASE_CID, NO_PARENT)),
    ];
    let mut storage = MemoryStorage { devices };
    let text = run(&mut storage, &job(&[VMDK, VMDK, VMDK], 2, 0)).unwrap_err();
    assert_eq!(text, "the image below has been changed: its CID is 00000002, and parentCID says 00000099");
}

#[test]
fn subformats_that_are_not_read_are_named() {
    for (base, text) in [
        (b"COWD".to_vec(), "sparse vmdk extents of ESX servers cannot be read yet"),
        (descriptor("fullDevice", 1, NO_PARENT, "").into_bytes(), "Unsupported image type 'fullDevice'"),
    ] {
        assert_eq!(refusal(&plain(8, 1, BASE_CID), base).0, text);
    }
}

#[test]
fn a_base_that_needs_a_parent_that_has_changed_is_not_completed_from_it() {
    let overlay = Sparse { grain_sectors: 8, ..plain(2048, 1, BASE_CID) };
    let devices =
        vec![sparse(&overlay), sparse(&plain(2048, BASE_CID, 0x99)), sparse(&plain(2048, 7, NO_PARENT)), pattern()];
    let mut storage = MemoryStorage { devices };
    let source = Source::Data { device: 3, host_offset: 0 };
    write(&mut storage, &[VMDK], 0, &[Extent { guest_offset: 0, length_bytes: 4096, source }]);
    let text = run(&mut storage, &job(&[VMDK, VMDK, VMDK], 1, 0)).unwrap_err();
    assert_eq!(text, "the image below has been changed: its CID is 00000007, and parentCID says 00000099");
}

/// Runs a commit; `Err` holds the text of the failure.
fn run(storage: &mut MemoryStorage, job: &[u8]) -> Result<(), String> {
    let mut report = vec![0; 4096];
    instar_exec::commit::run(job, storage, &mut report);
    let header = ReportHeader::get(&report);
    let text = String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned();
    if header.outcome == outcome::DONE { Ok(()) } else { Err(text) }
}

/// A job over an overlay and a base; `data` are further devices of the base, as its data files.
fn job_with_data(data: u32) -> Vec<u8> {
    let mut bytes = job(&[QCOW2, VMDK], 1, 0);
    let mut header = JobHeader::get(&bytes);
    for index in 0..data {
        let entry = DeviceEntry { role: role::DATA, layer: 1, index, format: 0, flags: 1, reserved: 0 };
        entry.put(&mut bytes[JobHeader::SIZE_BYTES + (2 + index as usize) * DeviceEntry::SIZE_BYTES..]);
    }
    header.device_count += data;
    header.put(&mut bytes);
    bytes
}

#[test]
fn extents_receive_what_lies_in_their_part_of_the_disk() {
    let size_bytes = 2 * 65536 + 65536;
    let overlay =
        Shape { version: 3, cluster_bits: 12, refcount_order: 4, extended_l2: false, size_bytes, has_backing: true };
    let lines = "RW 128 SPARSE \"a\"\nRW 128 FLAT \"b\" 0\nRW 128 FLAT \"b\" 128\n";
    let text = descriptor("twoGbMaxExtentSparse", BASE_CID, NO_PARENT, lines);
    let devices = vec![
        empty_image(&overlay),
        text.clone().into_bytes(),
        sparse(&plain(128, 3, NO_PARENT)),
        vec![0; 2 * 65536],
        pattern(),
    ];
    let mut storage = MemoryStorage { devices };
    let source = Source::Data { device: 4, host_offset: 0 };
    write(&mut storage, &[QCOW2], 0, &[Extent { guest_offset: 4096, length_bytes: size_bytes - 8192, source }]);
    let before = read(&mut storage, &[QCOW2], 0);
    run(&mut storage, &job_with_data(2)).unwrap();
    let mut files = MemoryStorage { devices: vec![storage.devices[2].clone(), storage.devices[3].clone()] };
    assert!(read(&mut files, &[VMDK, RAW], 0) == before[..65536]);
    assert!(read(&mut files, &[VMDK, RAW], 1) == before[65536..]);
    assert_ne!(storage.devices[1], text.as_bytes(), "the descriptor has a new identifier");
    assert_eq!(storage.devices[1].len(), text.len());
}

#[test]
fn extents_that_share_bytes_are_refused() {
    let shape = Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 512,
        has_backing: true,
    };
    let lines = "RW 128 FLAT \"b\" 0\nRW 128 FLAT \"b\" 127\n";
    let text = descriptor("monolithicFlat", BASE_CID, NO_PARENT, lines).into_bytes();
    let mut storage = MemoryStorage { devices: vec![empty_image(&shape), text, vec![0; 2 * 65536]] };
    assert_eq!(run(&mut storage, &job_with_data(1)).unwrap_err(), "two extents lie on the same bytes of a file");
    assert_eq!(run(&mut storage, &job_with_data(0)).unwrap_err(), "the job lacks the extent file 'b'");
}
