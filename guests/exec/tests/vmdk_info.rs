//! What info reports of vmdk images, with and without their extent files; damaged ones end in an error and not in a panic.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod vmdk_support;

use instar_abi::job::{ABI_VERSION, DeviceEntry, JOB_MAGIC, JobHeader, format, operation, role};
use instar_abi::report::{
    ExtentItem, InfoReport, PayloadItem, ReportHeader, VmdkItem, extent_flag, extent_kind, outcome, payload_kind,
};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;
use instar_exec::memory::MemoryStorage;
use proptest::prelude::*;
use vmdk_support::{Sparse, descriptor, sparse};

const SHAPE: Sparse = Sparse {
    sectors: 1000,
    grain_sectors: 16,
    table_entries: 512,
    zeroed_grains: false,
    redundant: true,
    compressed: false,
    preallocated: true,
    cid: 0x12,
    parent_cid: u32::MAX,
};

/// Runs info on an image and its data devices: the report, the image's item, and the extents with their names.
type Found = (InfoReport, VmdkItem, Vec<(ExtentItem, String)>);

fn info(devices: Vec<Vec<u8>>) -> Result<Found, String> {
    let mut job = vec![0; OPERATION_PART_OFFSET];
    let header = JobHeader {
        magic: JOB_MAGIC,
        abi_version: ABI_VERSION,
        operation: operation::INFO,
        device_count: u32::try_from(devices.len()).unwrap(),
        layer_count: 1,
    };
    header.put(&mut job);
    for number in 0..devices.len() {
        let (role, index) = if number == 0 { (role::IMAGE, 0) } else { (role::DATA, number as u32 - 1) };
        let entry = DeviceEntry { role, layer: 0, index, format: format::VMDK, flags: 0, reserved: 0 };
        entry.put(&mut job[JobHeader::SIZE_BYTES + number * DeviceEntry::SIZE_BYTES..]);
    }
    let mut report = vec![0; 1 << 16];
    instar_exec::info::run(&job, &mut MemoryStorage { devices }, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome != outcome::DONE {
        return Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned());
    }
    let body = &report[ReportHeader::SIZE_BYTES..];
    let mut rest = &body[InfoReport::SIZE_BYTES..][..header.payload_length_bytes as usize];
    let (mut image, mut extents) = (None, Vec::new());
    while !rest.is_empty() {
        let head = PayloadItem::get(rest);
        let (data, tail) = rest[PayloadItem::SIZE_BYTES..].split_at(head.length_bytes as usize);
        match head.kind {
            payload_kind::VMDK => image = Some(VmdkItem::get(data)),
            payload_kind::EXTENT => {
                let name = String::from_utf8_lossy(&data[ExtentItem::SIZE_BYTES..]).into_owned();
                extents.push((ExtentItem::get(data), name));
            }
            kind => panic!("item of kind {kind}"),
        }
        rest = tail;
    }
    Ok((InfoReport::get(body), image.expect("an item for the image"), extents))
}

#[test]
fn a_single_file_is_its_own_extent() {
    let (report, image, extents) = info(vec![sparse(&Sparse { compressed: true, ..SHAPE })]).unwrap();
    assert_eq!((report.virtual_size_bytes, report.cluster_size_bytes, report.l1_entries), (512_000, 8192, 1));
    assert_eq!((image.cid, image.parent_cid, image.extent_count, image.file_count), (0x12, u32::MAX, 1, 0));
    let [(extent, name)] = &extents[..] else { panic!("{extents:?}") };
    assert_eq!((extent.kind, extent.data_index, name.as_str()), (extent_kind::OWN, u32::MAX, ""));
    assert_eq!(extent.flags, extent_flag::INSPECTED | extent_flag::COMPRESSED);
}

#[test]
fn extents_are_named_first_and_inspected_once_they_are_there() {
    let lines = "RW 1000 SPARSE \"s\"\nRW 8 FLAT \"f\" 0\nRW 8 FLAT \"f\" 8\n";
    let text = descriptor("twoGbMaxExtentSparse", 7, 9, lines).into_bytes();
    let (report, image, extents) = info(vec![text.clone()]).unwrap();
    assert_eq!((image.extent_count, image.file_count), (3, 2));
    assert_eq!(report.virtual_size_bytes, 1016 * 512);
    let names: Vec<_> = extents.iter().map(|(extent, name)| (extent.data_index, name.as_str(), extent.flags)).collect();
    assert_eq!(names, [(0, "s", 0), (1, "f", 0), (1, "f", 0)]);

    let larger = Sparse { sectors: 2000, ..SHAPE };
    let (report, _, extents) = info(vec![text, sparse(&larger), vec![0; 8192]]).unwrap();
    assert_eq!(report.virtual_size_bytes, 2016 * 512, "the sparse file says how large it is");
    assert_eq!(report.cluster_size_bytes, 0, "extents that differ have no cluster size in common");
    let sizes: Vec<_> = extents.iter().map(|(extent, _)| (extent.flags, extent.cluster_size_bytes)).collect();
    assert_eq!(sizes, [(extent_flag::INSPECTED, 8192), (extent_flag::INSPECTED, 0), (extent_flag::INSPECTED, 0)]);
}

#[test]
fn the_hint_is_the_backing_name() {
    let lines = "parentFileNameHint=\"../base disk.vmdk\"\nRW 8 FLAT \"f\" 0\n";
    let (report, image, _) = info(vec![descriptor("monolithicFlat", 1, 0xabc, lines).into_bytes()]).unwrap();
    assert_eq!(&report.backing_name[..report.backing_name_length_bytes as usize], b"../base disk.vmdk");
    assert_eq!(&report.backing_format[..report.backing_format_length_bytes as usize], b"vmdk");
    assert_eq!(image.parent_cid, 0xabc);
}

#[test]
fn what_is_no_vmdk_is_said_in_known_words() {
    let said = |bytes: &[u8]| info(vec![bytes.to_vec()]).unwrap_err();
    assert_eq!(said(b""), "File is too small, not a valid image");
    assert_eq!(said(b"version=1\n"), "invalid VMDK image descriptor");
    assert_eq!(said(&sparse(&SHAPE)[..600]), "File truncated, expecting at least 6656 bytes");
    assert_eq!(said(&sparse(&Sparse { sectors: 0, ..SHAPE })), "Unsupported image type 'monolithicSparse'");
}

proptest! {
    #[test]
    fn damaged_images_never_panic(at in 0..1600usize, bytes in prop::collection::vec(any::<u8>(), 1..9), cut in 0..9000usize) {
        let mut image = sparse(&SHAPE);
        image[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = info(vec![image.clone()]);
        let text = descriptor("monolithicFlat", 7, 9, "RW 1000 SPARSE \"s\"\nRW 8 FLAT \"f\" 0\n");
        let _ = info(vec![text.clone().into_bytes(), image.clone(), vec![0; 4096]]);
        image.truncate(cut);
        let _ = info(vec![text.into_bytes(), image]);
    }
}
