//! Rebase over random chains in memory: what a guest reads stays, nothing is copied that reads the same anyway, and a
//! crash at any write leaves an overlay that still reads the same through the old chain or through the new one.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

#[path = "support/crashing.rs"]
mod crashing;
#[path = "support/recount.rs"]
mod recount;
mod support;

use crashing::Crashing;
use instar_abi::job::{JobHeader, RebaseJob, operation, rebase_flag};
use instar_abi::report::{RebaseReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::Storage;
use instar_exec::job::{Job, OPERATION_PART_OFFSET};
use instar_exec::memory::MemoryStorage;
use instar_exec::open::open_layer;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use recount::assert_refcounts_are_exact;
use support::{QCOW2, RAW, Shape, commit, empty_image, job, read, write};

fn pattern() -> Vec<u8> {
    (0..1u64 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 9) as u8 | 1).collect()
}

#[derive(Clone, Debug)]
struct Write {
    start_permille: u64,
    length_bytes: u64,
    is_zero: bool,
}

fn writes(most: usize) -> impl Strategy<Value = Vec<Write>> {
    let write = (0..1000u64, prop_oneof![1..600u64, 1..9000u64, 4000..200_000u64], prop::bool::weighted(0.3));
    let write =
        write.prop_map(|(start_permille, length_bytes, is_zero)| Write { start_permille, length_bytes, is_zero });
    prop::collection::vec(write, 0..most)
}

fn shape() -> impl Strategy<Value = Shape> {
    let extended = prop_oneof![3 => Just(false), 1 => Just(true)];
    (2..=3u32, 9..=16u32, 0..=6u32, extended, 1..500_000u64).prop_map(|(version, bits, order, extended_l2, size)| {
        Shape {
            version: if extended_l2 { 3 } else { version },
            cluster_bits: if extended_l2 { bits.max(14) } else { bits },
            refcount_order: if version == 2 && !extended_l2 { 4 } else { order },
            extended_l2,
            size_bytes: size.next_multiple_of(512),
            has_backing: false,
        }
    })
}

/// An image below the overlay, and what is written to it.
#[derive(Clone, Debug)]
struct Image {
    /// Raw where there is none.
    shape: Option<Shape>,
    size_bytes: u64,
    writes: Vec<Write>,
}

fn image() -> impl Strategy<Value = Image> {
    (prop::option::weighted(0.8, shape()), 1..500_000u64, writes(6)).prop_map(|(shape, size, writes)| {
        let size_bytes = shape.as_ref().map_or(size.next_multiple_of(512), |shape| shape.size_bytes);
        Image { shape, size_bytes, writes }
    })
}

/// What becomes of the overlay: its old chain is `old` on top of `common`, its new one `new` on top of `common`.
#[derive(Clone, Debug)]
struct Scene {
    overlay: Shape,
    above: Vec<Write>,
    old: Vec<Image>,
    new: Vec<Image>,
    common: Vec<Image>,
    /// Written to the lowest image of both chains, so that some of it reads the same.
    shared: Vec<Write>,
    compresses: bool,
}

fn scene() -> impl Strategy<Value = Scene> {
    let images = |most| prop::collection::vec(image(), 0..=most);
    (shape(), writes(5), images(2), images(1), images(1), writes(6), any::<bool>()).prop_map(
        |(overlay, above, old, new, common, shared, compresses)| Scene {
            overlay,
            above,
            old,
            new,
            common,
            shared,
            compresses,
        },
    )
}

/// Images in one storage, topmost first, built from the lowest one up; a device of pattern lies behind them.
fn build(images: &[(Option<&Shape>, u64, Vec<&Write>)]) -> (MemoryStorage, Vec<u32>) {
    let formats: Vec<u32> = images.iter().map(|(shape, ..)| if shape.is_some() { QCOW2 } else { RAW }).collect();
    let mut devices: Vec<Vec<u8>> =
        images.iter().map(|(shape, size, _)| shape.map_or_else(|| vec![0; *size as usize], empty_image)).collect();
    devices.push(pattern());
    let device = images.len() as u32;
    let mut storage = MemoryStorage { devices };
    for layer in (0..device).rev() {
        let (_, size, writes) = &images[layer as usize];
        let extents: Vec<Extent> = writes.iter().filter_map(|write| extent(write, *size, device)).collect();
        write(&mut storage, &formats, layer, &extents);
    }
    storage.devices.pop();
    (storage, formats)
}

fn extent(write: &Write, size_bytes: u64, device: u32) -> Option<Extent> {
    // A fixed scale: the same write means the same bytes in images of different sizes.
    let guest_offset = 500 * write.start_permille;
    let length_bytes = write.length_bytes.min(size_bytes.checked_sub(guest_offset)?);
    let host_offset = write.start_permille * 37 + write.length_bytes;
    let source = if write.is_zero { Source::Zero } else { Source::Data { device, host_offset } };
    (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
}

/// A storage with the layers of a rebase job, and how they make up the two chains.
#[derive(Clone)]
struct Stage {
    storage: MemoryStorage,
    formats: Vec<u32>,
    old_layers: u32,
    join_layer: u32,
}

impl Stage {
    fn new(scene: &Scene) -> Self {
        let row = |image: &'_ Image, shared: &[Write]| -> (Option<Shape>, u64, Vec<Write>) {
            (image.shape.clone(), image.size_bytes, shared.iter().chain(&image.writes).cloned().collect())
        };
        let rows = |images: &[Image], shares: bool| -> Vec<_> {
            let lowest = images.len().wrapping_sub(1);
            let shared = |index| if shares && index == lowest { &scene.shared[..] } else { &[] };
            images.iter().enumerate().map(|(index, image)| row(image, shared(index))).collect()
        };
        let build = |rows: &[(Option<Shape>, u64, Vec<Write>)]| {
            let rows: Vec<_> =
                rows.iter().map(|(shape, size, writes)| (shape.as_ref(), *size, writes.iter().collect())).collect();
            build(&rows)
        };
        let shares = scene.common.is_empty();
        let common = rows(&scene.common, false);
        let overlay = (Some(scene.overlay.clone()), scene.overlay.size_bytes, scene.above.clone());
        let old: Vec<_> = [overlay].into_iter().chain(rows(&scene.old, shares)).chain(common.iter().cloned()).collect();
        let new: Vec<_> = rows(&scene.new, shares).into_iter().chain(common).collect();
        let (mut storage, mut formats) = build(&old);
        let (new_storage, new_formats) = build(&new);
        storage.devices.extend(new_storage.devices.into_iter().take(scene.new.len()));
        formats.extend(new_formats.into_iter().take(scene.new.len()));
        Self {
            storage,
            formats,
            old_layers: (scene.old.len() + scene.common.len()) as u32,
            join_layer: scene.old.len() as u32 + 1,
        }
    }

    fn old_chain(&self) -> Vec<usize> {
        (0..=self.old_layers as usize).collect()
    }

    fn new_chain(&self) -> Vec<usize> {
        let own = self.old_layers as usize + 1..self.formats.len();
        [0].into_iter().chain(own).chain(self.join_layer as usize..=self.old_layers as usize).collect()
    }

    /// What a guest reads from the layers in `chain`.
    fn content(&self, storage: &MemoryStorage, chain: &[usize]) -> Vec<u8> {
        let (mut part, formats) = self.part(storage, chain);
        read(&mut part, &formats, 0)
    }

    fn part(&self, storage: &MemoryStorage, chain: &[usize]) -> (MemoryStorage, Vec<u32>) {
        let devices = chain.iter().map(|index| storage.devices[*index].clone()).collect();
        (MemoryStorage { devices }, chain.iter().map(|index| self.formats[*index]).collect())
    }

    /// Which parts of the disk the overlay itself holds.
    fn own(&self, storage: &mut MemoryStorage) -> Vec<Extent> {
        let bytes = job(&self.formats, 1, 0);
        let job = Job::parse(&bytes).unwrap();
        let mut overlay = open_layer(storage, &job, 0).unwrap();
        let (size_bytes, mut extents) = (overlay.size_bytes(), Vec::new());
        overlay.map(storage, 0, size_bytes, &mut extents).unwrap();
        extents
    }

    fn rebase(&self, storage: &mut dyn Storage, flags: u32) -> Result<RebaseReport, String> {
        let name = if self.new_chain().len() == 1 { "" } else { "new" };
        rebase(storage, &self.formats, self.old_layers, self.join_layer, flags, name)
    }
}

fn rebase(
    storage: &mut dyn Storage,
    formats: &[u32],
    old_layers: u32,
    join_layer: u32,
    flags: u32,
    name: &str,
) -> Result<RebaseReport, String> {
    let mut bytes = job(formats, 1, 0);
    bytes.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::REBASE, ..JobHeader::get(&bytes) }.put(&mut bytes);
    let mut part = RebaseJob {
        flags,
        old_layers,
        join_layer,
        name_length_bytes: name.len() as u32,
        name: [0; 1024],
        format_name: *b"qcow2\0\0\0\0\0\0\0\0\0\0\0",
    };
    part.name[..name.len()].copy_from_slice(name.as_bytes());
    part.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut report = vec![0; 4096];
    instar_exec::rebase::run(&bytes, storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome == outcome::DONE {
        return Ok(RebaseReport::get(&report[ReportHeader::SIZE_BYTES..]));
    }
    Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned())
}

/// Whether the header names a backing file.
fn names_backing(storage: &MemoryStorage) -> bool {
    storage.devices[0][8..20].iter().any(|byte| *byte != 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_overlay_shows_the_same_through_the_new_chain(scene in scene()) {
        let stage = Stage::new(&scene);
        let before = stage.content(&stage.storage, &stage.old_chain());
        let mut storage = stage.storage.clone();
        let report = stage.rebase(&mut storage, if scene.compresses { rebase_flag::COMPRESS } else { 0 }).unwrap();
        prop_assert!(stage.content(&storage, &stage.new_chain()) == before, "the overlay reads differently");
        prop_assert_eq!(names_backing(&storage), stage.new_chain().len() > 1);
        assert_refcounts_are_exact(&storage.devices[0]);
        for layer in 1..storage.devices.len() {
            prop_assert!(storage.devices[layer] == stage.storage.devices[layer], "layer {} has changed", layer);
        }
        // Opening for writing takes the census, which fails on any refcount that is too low; what could not be seen before
        // is not needed now.
        let (mut part, formats) = stage.part(&storage, &stage.new_chain());
        let (count, old_layers) = (part.devices[0].len(), formats.len() as u32 - 1);
        let again = rebase(&mut part, &formats, old_layers, 1, 0, "new").unwrap();
        prop_assert_eq!((again.bytes_copied, part.devices[0].len()), (0, count), "after {:?}", report);
    }

    #[test]
    fn nothing_is_copied_that_reads_the_same(scene in scene()) {
        let stage = Stage::new(&scene);
        let mut storage = stage.storage.clone();
        let own_before = stage.own(&mut storage);
        let old = stage.content(&storage, &stage.old_chain());
        let new = stage.content(&storage, &stage.new_chain());
        stage.rebase(&mut storage, 0).unwrap();
        let size = 1u64 << scene.overlay.cluster_bits;
        let unit = if scene.overlay.extended_l2 { size / 32 } else { size };
        let holds = |extents: &[Extent], start| extents.iter().any(|extent| extent.source != Source::Absent && extent.clipped(start, start + unit).is_some());
        let own_after = stage.own(&mut storage);
        for start in (0..scene.overlay.size_bytes).step_by(unit as usize) {
            let range = start as usize..(start + unit).min(scene.overlay.size_bytes) as usize;
            if !holds(&own_before, start) && holds(&own_after, start) {
                prop_assert!(old[range.clone()] != new[range], "the unit at {start} was copied in vain");
            }
        }
    }

    #[test]
    fn a_crash_loses_nothing_and_a_second_run_completes(
        scene in scene(),
        crash_permille in 0..1000u64,
        seed in any::<u64>(),
    ) {
        let stage = Stage::new(&scene);
        let flags = if scene.compresses { rebase_flag::COMPRESS } else { 0 };
        let before = stage.content(&stage.storage, &stage.old_chain());
        let mut counting = Crashing::new(stage.storage.clone(), u64::MAX, seed);
        stage.rebase(&mut counting, flags).unwrap();
        let mut crashing = Crashing::new(stage.storage.clone(), counting.requests * crash_permille / 1000, seed);
        stage.rebase(&mut crashing, flags).unwrap_err();
        let mut survived = crashing.after_the_crash();
        // The last request makes the new header durable, which may be there before.
        let chain = if names_backing(&survived) { stage.new_chain() } else { stage.old_chain() };
        prop_assert!(stage.content(&survived, &chain) == before, "the overlay reads differently after the crash");
        stage.rebase(&mut survived, flags).unwrap();
        prop_assert!(stage.content(&survived, &stage.new_chain()) == before, "the overlay reads differently after the second run");
    }

    #[test]
    fn what_was_rebased_commits_into_the_new_backing_file(scene in scene()) {
        let stage = Stage::new(&scene);
        if stage.new_chain().len() != 2 {
            return Ok(());
        }
        let before = stage.content(&stage.storage, &stage.old_chain());
        let mut storage = stage.storage.clone();
        stage.rebase(&mut storage, if scene.compresses { rebase_flag::COMPRESS } else { 0 }).unwrap();
        let (mut part, formats) = stage.part(&storage, &stage.new_chain());
        commit(&mut part, &formats).unwrap();
        prop_assert!(read(&mut part, &formats, 1)[..before.len()] == before, "the backing file lacks what the overlay showed");
    }
}

#[test]
fn an_unsafe_rebase_changes_the_header_and_nothing_else() {
    let shape = Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 20,
        has_backing: true,
    };
    let image = empty_image(&shape);
    let mut storage = MemoryStorage { devices: vec![image.clone()] };
    rebase(&mut storage, &[QCOW2], 0, 1, rebase_flag::UNSAFE, "elsewhere/new.qcow2").unwrap();
    assert_eq!(storage.devices[0][4096..], image[4096..]);
    let text = String::from_utf8_lossy(&storage.devices[0][..4096]).into_owned();
    assert!(text.contains("elsewhere/new.qcow2") && text.contains("qcow2\0\0\0") && !text.contains("base"));
    rebase(&mut storage, &[QCOW2], 0, 1, rebase_flag::UNSAFE, "").unwrap();
    assert!(!names_backing(&storage));
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let shape = Shape {
        version: 3,
        cluster_bits: 9,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 20,
        has_backing: true,
    };
    let mut storage = MemoryStorage { devices: vec![empty_image(&shape), vec![1; 1 << 20]] };
    let before = storage.devices.clone();
    let formats = [QCOW2, RAW];
    let mut refusal = |formats: &[u32], name: &str| rebase(&mut storage, formats, 1, 2, 0, name).unwrap_err();
    assert_eq!(refusal(&formats, &"n".repeat(377)), "No space left in the file header");
    assert_eq!(refusal(&formats, &"n".repeat(1024)), "Invalid argument");
    assert_eq!(refusal(&[RAW, RAW], "new"), "Operation not supported");
    assert_eq!(storage.devices, before);
    assert!(rebase(&mut storage, &formats, 1, 2, 0, &"n".repeat(376)).is_ok());
}

/// Version 2 has no zero clusters, and without a backing file an unallocated cluster looks as good as zeros.
#[test]
fn a_version_2_overlay_without_backing_file_keeps_its_zeros() {
    let shape = Shape {
        version: 2,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 20,
        has_backing: false,
    };
    for flags in [0, rebase_flag::COMPRESS] {
        let mut storage = MemoryStorage { devices: vec![empty_image(&shape), vec![1; 1 << 19]] };
        let report = rebase(&mut storage, &[QCOW2, RAW], 0, 1, flags, "new").unwrap();
        assert_eq!((report.clusters_copied, report.bytes_copied), (128, 1 << 19));
        assert!(read(&mut storage, &[QCOW2, RAW], 0).iter().all(|byte| *byte == 0));
    }
}
