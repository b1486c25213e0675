//! Rebase of vmdk and qed overlays in memory: what a guest reads stays, nothing is copied that reads the same anyway, a crash at
//! any write before the header loses nothing, and what cannot be done is refused before anything is written.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod blocks_support;
#[path = "support/crashing.rs"]
mod crashing;
mod support;
mod vmdk_support;

use blocks_support::{Blueprint, empty_blocks};
use crashing::Crashing;
use instar_abi::job::{JobHeader, RebaseJob, format, operation, rebase_flag};
use instar_abi::report::{RebaseReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::Storage;
use instar_exec::job::{Job, OPERATION_PART_OFFSET};
use instar_exec::memory::MemoryStorage;
use instar_exec::open::open_layer;
use instar_formats::vmdk::Descriptor;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{job, read, write};
use vmdk_support::{Sparse, sparse};

const VMDK: u32 = format::VMDK;
const QED: u32 = format::QED;
const OLD_CID: u32 = 0x0ab_c123;
const NEW_CID: u32 = 0x1234_5678;
const NO_PARENT: u32 = u32::MAX;
/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: usize = 3;

/// Writes: where, how much, and whether zeros.
type Writes = Vec<(u64, u64, bool)>;

fn writes() -> impl Strategy<Value = Writes> {
    let length = prop_oneof![1..600u64, 1..9000u64, 4000..200_000u64];
    prop::collection::vec((0..1000u64, length, prop::bool::weighted(0.3)), 0..6)
}

#[derive(Clone, Debug)]
struct Scene {
    is_vmdk: bool,
    /// Sizes of overlay, old and new backing file, in sectors.
    sectors: [u64; 3],
    grain_sectors: u64,
    flags: (bool, bool, bool, bool),
    table_entries: u32,
    block_bits: u32,
    above: Writes,
    old: Option<Writes>,
    new: Option<Writes>,
    /// Written to both backing files.
    shared: Writes,
}

fn scene() -> impl Strategy<Value = Scene> {
    let sizes = (prop::array::uniform3(1..1000u64), 1..200u64, prop_oneof![Just(512u32), 1..40u32], 12..=16u32);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    let backing = || prop::option::weighted(0.8, writes());
    (any::<bool>(), sizes, flags, writes(), backing(), backing(), writes()).prop_map(
        |(is_vmdk, (sectors, grain_sectors, table_entries, block_bits), flags, above, old, new, shared)| Scene {
            is_vmdk,
            sectors,
            grain_sectors,
            flags,
            table_entries,
            block_bits,
            above,
            old,
            new,
            shared,
        },
    )
}

impl Scene {
    /// The device of the old backing file; where the overlay has none, it is a device behind the layers of the job.
    fn old_device(&self) -> usize {
        if self.old.is_some() { 1 } else { 2 }
    }

    /// The device of the new backing file, whether the overlay gets it or not.
    fn new_device(&self) -> usize {
        3 - self.old_device()
    }

    fn format(&self) -> u32 {
        if self.is_vmdk { VMDK } else { QED }
    }

    fn sparse(&self, layer: usize, cid: u32, parent_cid: u32) -> Sparse {
        Sparse {
            sectors: self.sectors[layer],
            grain_sectors: self.grain_sectors,
            table_entries: self.table_entries,
            zeroed_grains: self.flags.0,
            redundant: self.flags.1,
            compressed: self.flags.2,
            preallocated: self.flags.3,
            cid,
            parent_cid,
        }
    }

    fn empty(&self, layer: usize, cid: u32, parent_cid: u32, has_backing: bool) -> Vec<u8> {
        if self.is_vmdk {
            return sparse(&self.sparse(layer, cid, parent_cid));
        }
        let size_bytes = self.sectors[layer] * 512;
        empty_blocks(&Blueprint { format: QED, block_bits: self.block_bits, size_bytes, has_backing })
    }

    /// The storage with overlay, old and new backing file and the pattern.
    fn storage(&self) -> MemoryStorage {
        let pattern = (0..1u64 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 9) as u8 | 1).collect();
        let mut storage = MemoryStorage { devices: vec![Vec::new(), Vec::new(), Vec::new(), pattern] };
        for (layer, cid, own) in [(self.old_device(), OLD_CID, &self.old), (self.new_device(), NEW_CID, &self.new)] {
            let mut alone = MemoryStorage { devices: vec![self.empty(layer, cid, NO_PARENT, false); 3] };
            alone.devices.push(storage.devices[PATTERN].clone());
            let all: Writes = self.shared.iter().chain(own.iter().flatten()).copied().collect();
            write(&mut alone, &[self.format()], 0, &resolved(&all, self.sectors[layer] * 512));
            storage.devices[layer] = alone.devices.swap_remove(0);
        }
        let old_cid = if self.old.is_none() { NO_PARENT } else { self.cid(&storage.devices[self.old_device()]) };
        storage.devices[0] = self.empty(0, 7, old_cid, self.old.is_some());
        let formats = &[self.format(); 2][..1 + usize::from(self.old.is_some())];
        write(&mut storage, formats, 0, &resolved(&self.above, self.sectors[0] * 512));
        storage
    }

    fn cid(&self, image: &[u8]) -> u32 {
        if self.is_vmdk { descriptor(image).cid.unwrap().0 } else { 0 }
    }

    /// What a guest reads from the overlay on one of the backing files, or on none.
    fn content(&self, storage: &MemoryStorage, below: Option<usize>) -> Vec<u8> {
        let devices: Vec<Vec<u8>> =
            [0].into_iter().chain(below).map(|device| storage.devices[device].clone()).collect();
        let formats = vec![self.format(); devices.len()];
        read(&mut MemoryStorage { devices }, &formats, 0)
    }

    fn old_content(&self, storage: &MemoryStorage) -> Vec<u8> {
        self.content(storage, self.old.as_ref().map(|_| self.old_device()))
    }

    fn own(&self, storage: &MemoryStorage) -> Vec<Extent> {
        let mut storage = storage.clone();
        let bytes = job(&[self.format()], 1, 0);
        let mut overlay = open_layer(&mut storage, &Job::parse(&bytes).unwrap(), 0).unwrap();
        let (size_bytes, mut extents) = (overlay.size_bytes(), Vec::new());
        overlay.map(&mut storage, 0, size_bytes, &mut extents).unwrap();
        extents
    }

    fn rebase(&self, storage: &mut dyn Storage) -> Result<RebaseReport, String> {
        let (name, layers) = if self.new.is_some() { ("new", 3) } else { ("", 2) };
        if self.old.is_some() {
            return rebase(storage, &[self.format(); 3][..layers], 1, 0, name, self.is_vmdk);
        }
        rebase(storage, &[self.format(); 3][..layers - 1], 0, 0, name, self.is_vmdk)
    }
}

fn resolved(writes: &Writes, size_bytes: u64) -> Vec<Extent> {
    let resolve = |&(place, length, is_zero): &(u64, u64, bool)| {
        let guest_offset = place * 500;
        let length_bytes = length.min(size_bytes.checked_sub(guest_offset)?);
        let host_offset = place * 37 + length;
        let source = if is_zero { Source::Zero } else { Source::Data { device: PATTERN as u32, host_offset } };
        (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
    };
    writes.iter().filter_map(resolve).collect()
}

fn descriptor(image: &[u8]) -> Descriptor {
    Descriptor::parse_embedded(&image[512..1536]).unwrap()
}

fn rebase(
    storage: &mut dyn Storage,
    formats: &[u32],
    old_layers: u32,
    flags: u32,
    name: &str,
    is_vmdk: bool,
) -> Result<RebaseReport, String> {
    let mut bytes = job(formats, 1, 0);
    bytes.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::REBASE, ..JobHeader::get(&bytes) }.put(&mut bytes);
    let mut part = RebaseJob {
        flags,
        old_layers,
        join_layer: old_layers + 1,
        name_length_bytes: name.len() as u32,
        name: [0; 1024],
        format_name: [0; 16],
    };
    part.name[..name.len()].copy_from_slice(name.as_bytes());
    let format_name: &[u8] = if is_vmdk { b"vmdk" } else { b"qed" };
    part.format_name[..format_name.len()].copy_from_slice(format_name);
    part.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut report = vec![0; 4096];
    instar_exec::rebase::run(&bytes, storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome == outcome::DONE {
        return Ok(RebaseReport::get(&report[ReportHeader::SIZE_BYTES..]));
    }
    Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_overlay_shows_the_same_and_receives_no_more_than_it_needs(scene in scene()) {
        let mut storage = scene.storage();
        let (before, own_before, backing) = (scene.old_content(&storage), scene.own(&storage), storage.devices[1..].to_vec());
        let through_new = scene.content(&storage, None);
        scene.rebase(&mut storage).unwrap();
        let new = scene.new.as_ref().map(|_| scene.new_device());
        if scene.is_vmdk {
            let descriptor = descriptor(&storage.devices[0]);
            let parent = new.map(|new| scene.cid(&storage.devices[new]));
            prop_assert_eq!(descriptor.parent_cid.0, parent.unwrap_or(NO_PARENT));
            prop_assert_eq!(descriptor.parent_name.as_deref(), new.map(|_| &b"new"[..]));
            prop_assert_eq!(descriptor.cid.map(|cid| cid.0), Some(7));
        } else {
            prop_assert_eq!(storage.devices[0][16], u8::from(new.is_some()));
        }
        prop_assert!(scene.content(&storage, new) == before, "the overlay reads differently");
        prop_assert!(storage.devices[1..] == backing, "a backing file has changed");
        if new.is_none() {
            // Where the overlay has something now that it did not have, it had to: the bytes are no zeros.
            let unit = if scene.is_vmdk { scene.grain_sectors * 512 } else { 1 << scene.block_bits };
            for start in (0..before.len() as u64).step_by(unit as usize) {
                let range = start as usize..(start + unit).min(before.len() as u64) as usize;
                let holds = |extents: &[Extent]| {
                    let part = |extent: &&Extent| extent.clipped(range.start as u64, range.end as u64).is_some();
                    extents.iter().filter(part).any(|extent| extent.source != Source::Absent)
                };
                if !holds(&own_before) && holds(&scene.own(&storage)) {
                    prop_assert!(before[range.clone()] != through_new[range], "copied in vain at {}", start);
                }
            }
        }
    }

    #[test]
    fn a_crash_before_the_header_loses_nothing(scene in scene(), crash_permille in 0..1000u64, seed in any::<u64>()) {
        let storage = scene.storage();
        let before = scene.old_content(&storage);
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        scene.rebase(&mut counting).unwrap();
        // The last two requests are the header and its flush: whether half of it is on the disk is the medium's affair.
        let crash_at = (counting.requests - 1) * crash_permille / 1000;
        let mut crashing = Crashing::new(storage, crash_at, seed);
        scene.rebase(&mut crashing).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(scene.old_content(&survived) == before, "the overlay reads differently after the crash");
        scene.rebase(&mut survived).unwrap();
        let new = scene.new.as_ref().map(|_| scene.new_device());
        prop_assert!(scene.content(&survived, new) == before, "the overlay reads differently after the second run");
    }
}

fn plain(cid: u32, parent_cid: u32) -> Vec<u8> {
    sparse(&Sparse {
        sectors: 256,
        grain_sectors: 16,
        table_entries: 512,
        zeroed_grains: false,
        redundant: true,
        compressed: false,
        preallocated: true,
        cid,
        parent_cid,
    })
}

#[test]
fn an_unsafe_rebase_of_vmdk_takes_the_new_identifier_or_keeps_the_old_one() {
    let image = plain(7, OLD_CID);
    let mut storage = MemoryStorage { devices: vec![image.clone(), plain(NEW_CID, NO_PARENT)] };
    let mut run = |formats: &[u32], name: &str| {
        rebase(&mut storage, formats, 0, rebase_flag::UNSAFE, name, true).unwrap();
        assert_eq!(storage.devices[0][1536..], image[1536..]);
        let found = descriptor(&storage.devices[0]);
        (found.parent_name.map(|name| String::from_utf8(name).unwrap()), found.parent_cid.0)
    };
    assert_eq!(run(&[VMDK], "moved"), (Some("moved".to_owned()), OLD_CID));
    assert_eq!(run(&[VMDK, VMDK], "new"), (Some("new".to_owned()), NEW_CID));
    assert_eq!(run(&[VMDK], ""), (None, NO_PARENT));
    let before = storage.devices.clone();
    let refusal = rebase(&mut storage, &[VMDK], 0, rebase_flag::UNSAFE, "unknown", true).unwrap_err();
    assert!(refusal.starts_with("the content identifier of the new backing file is not known"), "{refusal}");
    assert_eq!(storage.devices, before);
}

#[test]
fn what_a_vmdk_overlay_cannot_have_is_refused_before_anything_is_written() {
    let mut storage =
        MemoryStorage { devices: vec![plain(7, OLD_CID), plain(OLD_CID, NO_PARENT), plain(NEW_CID, NO_PARENT)] };
    // A descriptor that reaches into the grain directory.
    let mut overlapping = storage.devices[0].clone();
    overlapping[36] = 3;
    let stale = plain(OLD_CID + 1, NO_PARENT);
    let before = storage.devices.clone();
    let mut refusal =
        |formats: &[u32], name: &str, is_vmdk: bool| rebase(&mut storage, formats, 1, 0, name, is_vmdk).unwrap_err();
    assert_eq!(refusal(&[VMDK; 3], "a\"b", true), "Invalid argument");
    assert_eq!(refusal(&[VMDK; 3], &"n".repeat(1000), true), "No space left in the descriptor");
    assert_eq!(refusal(&[VMDK; 3], "new", false), "a vmdk image can only be based on a vmdk image");
    assert_eq!(refusal(&[VMDK, VMDK, format::RAW], "new", true), "a vmdk image can only be based on a vmdk image");
    for other in [format::QCOW, format::VDI, format::VHDX, format::VPC, format::RAW] {
        assert_eq!(refusal(&[other, VMDK, VMDK], "new", true), "Operation not supported");
    }
    assert_eq!(storage.devices, before);
    storage.devices[1] = stale;
    let refusal = rebase(&mut storage, &[VMDK; 3], 1, 0, "new", true).unwrap_err();
    assert!(refusal.starts_with("the image below has been changed"), "{refusal}");
    storage.devices[0] = overlapping;
    let refusal = rebase(&mut storage, &[VMDK], 0, rebase_flag::UNSAFE, "new", true).unwrap_err();
    assert_eq!(refusal, "the descriptor at byte 0x200 overlaps other metadata");
}

#[test]
fn a_descriptor_file_gets_longer_and_shorter() {
    let extents = "RW 256 SPARSE \"x-s001.vmdk\"\n";
    let text = vmdk_support::descriptor("twoGbMaxExtentSparse", 7, OLD_CID, extents);
    let mut storage = MemoryStorage { devices: vec![text.clone().into_bytes()] };
    let long = "n".repeat(900);
    rebase(&mut storage, &[VMDK], 0, rebase_flag::UNSAFE, &long, true).unwrap();
    let longer = String::from_utf8(storage.devices[0].clone()).unwrap();
    assert!(longer.contains(&format!("parentFileNameHint=\"{long}\"\n")) && longer.contains(extents));
    rebase(&mut storage, &[VMDK], 0, rebase_flag::UNSAFE, "", true).unwrap();
    assert_eq!(
        String::from_utf8(storage.devices[0].clone()).unwrap(),
        text.replace("00abc123", "ffffffff").replace("abc123", "ffffffff")
    );
}
