use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use instar_abi::job::{ABI_VERSION, DeviceEntry, JOB_MAGIC, JobHeader, role};
use instar_abi::report::{BitmapItem, PayloadItem, ReportHeader, SnapshotItem, outcome};
use instar_abi::wire::Wire as _;

use super::*;
use crate::job::OPERATION_PART_OFFSET;
use crate::memory::MemoryStorage;

/// A qcow2 image of 1 MiB with a backing name, a snapshot and a bitmap, in clusters of 4 KiB.
fn qcow2_image() -> Vec<u8> {
    let mut image = vec![0; 0x4000];
    let mut put = |offset: usize, data: &[u8]| image[offset..offset + data.len()].copy_from_slice(data);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(8, &400u64.to_be_bytes());
    put(16, &10u32.to_be_bytes());
    put(20, &12u32.to_be_bytes());
    put(24, &((1u64 << 20) + 511).to_be_bytes());
    put(36, &2u32.to_be_bytes());
    put(40, &0x1000u64.to_be_bytes());
    put(48, &0x1000u64.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(60, &1u32.to_be_bytes());
    put(64, &0x2000u64.to_be_bytes());
    put(72, &1u64.to_be_bytes());
    put(88, &1u64.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &112u32.to_be_bytes());
    put(112, b"\xe2\x79\x2a\xca\0\0\0\x05qcow2\0\0\0");
    put(128, b"\x23\x85\x28\x75\0\0\0\x18\0\0\0\x01\0\0\0\0");
    put(144, &32u64.to_be_bytes());
    put(152, &0x3000u64.to_be_bytes());
    put(400, b"base.qcow2");
    // The snapshot: id "1", name "before".
    put(0x200c, b"\0\x01\0\x06");
    put(0x2010, &1_795_330_810u32.to_be_bytes());
    put(0x2028, b"1before");
    // The bitmap "b0" with one table entry at 0x1000.
    put(0x3000, &0x1000u64.to_be_bytes());
    put(0x3008, b"\0\0\0\x01\0\0\0\x02\x01\x10\0\x02\0\0\0\0b0");
    image
}

fn report_of(image: Vec<u8>, format: u32) -> Vec<u8> {
    let mut job = vec![0; OPERATION_PART_OFFSET];
    let header = JobHeader {
        magic: JOB_MAGIC,
        abi_version: ABI_VERSION,
        operation: operation::INFO,
        device_count: 1,
        layer_count: 1,
    };
    header.put(&mut job);
    let device = DeviceEntry { role: role::IMAGE, layer: 0, index: 0, format, flags: 0, reserved: 0 };
    device.put(&mut job[JobHeader::SIZE_BYTES..]);
    let mut report = vec![0; 1 << 16];
    run(&job, &mut MemoryStorage { devices: vec![image] }, &mut report);
    report
}

fn success(report: &[u8]) -> (InfoReport, &[u8]) {
    let header = ReportHeader::get(report);
    assert_eq!(header.outcome, outcome::DONE, "{}", text(report));
    let payload = ReportHeader::SIZE_BYTES + InfoReport::SIZE_BYTES;
    let length = usize::try_from(header.payload_length_bytes).unwrap();
    (InfoReport::get(&report[ReportHeader::SIZE_BYTES..]), &report[payload..payload + length])
}

fn text(report: &[u8]) -> alloc::string::String {
    let header = ReportHeader::get(report);
    let length = usize::try_from(header.text_length_bytes).unwrap();
    alloc::string::String::from_utf8(header.text[..length].to_vec()).unwrap()
}

#[test]
fn report_a_qcow2_image() {
    let report = report_of(qcow2_image(), format::QCOW2);
    let (info, payload) = success(&report);
    assert_eq!((info.format, info.version, info.refcount_bits, info.l1_entries), (format::QCOW2, 3, 16, 2));
    assert_eq!((info.virtual_size_bytes, info.cluster_size_bytes), (1 << 20, 4096));
    assert_eq!(info.flags, info_flag::DIRTY | info_flag::HAS_BACKING | info_flag::HAS_BACKING_FORMAT);
    assert_eq!((info.backing_name_length_bytes, &info.backing_name[..11]), (10, &b"base.qcow2\0"[..]));
    assert_eq!((info.backing_format_length_bytes, &info.backing_format[..6]), (5, &b"qcow2\0"[..]));
    let (snapshot, rest) = payload.split_at(PayloadItem::SIZE_BYTES + SnapshotItem::SIZE_BYTES + 7);
    assert_eq!(PayloadItem::get(snapshot).kind, instar_abi::report::payload_kind::SNAPSHOT);
    assert_eq!(SnapshotItem::get(&snapshot[PayloadItem::SIZE_BYTES..]).date_seconds, 1_795_330_810);
    assert!(snapshot.ends_with(b"1before"));
    let bitmap = BitmapItem::get(&rest[PayloadItem::SIZE_BYTES..]);
    assert_eq!(bitmap, BitmapItem { granularity_bytes: 65536, flags: 2, name_length_bytes: 2 });
    assert!(rest.ends_with(b"b0"));
}

#[test]
fn probe_only_when_no_format_is_given() {
    let probed = report_of(qcow2_image(), format::PROBE);
    let (info, _) = success(&probed);
    assert_eq!((info.format, info.flags & info_flag::PROBED), (format::QCOW2, info_flag::PROBED));
    let raw = report_of(qcow2_image(), format::RAW);
    let (info, payload) = success(&raw);
    assert_eq!((info.format, info.flags, info.virtual_size_bytes, payload), (format::RAW, 0, 0x4000, &b""[..]));
    let other = report_of(b"LUKS\xba\xbe\0\x01".to_vec(), format::PROBE);
    assert_eq!(success(&other).0.format, format::LUKS);
}

#[test]
fn a_raw_disk_ends_with_a_whole_sector() {
    let report = report_of(vec![0; 1025], format::PROBE);
    assert_eq!(success(&report).0.virtual_size_bytes, 1536);
}

#[test]
fn failures_are_about_opening() {
    let report = report_of(b"text".to_vec(), format::QCOW2);
    let header = ReportHeader::get(&report);
    assert_eq!((header.outcome, header.error_kind, header.error_layer), (outcome::FAILED, error_kind::OPEN, 0));
    assert_eq!(text(&report), "Image is not in qcow2 format");
}

#[test]
fn what_is_not_supported_is_told_by_its_number() {
    let mut image = qcow2_image();
    image[7] = 9;
    let header = ReportHeader::get(&report_of(image, format::QCOW2));
    assert_eq!((header.error_kind, header.errno), (error_kind::OPEN, crate::report::ENOTSUP));
    let header = ReportHeader::get(&report_of(b"text".to_vec(), format::QCOW2));
    assert_eq!((header.error_kind, header.errno), (error_kind::OPEN, 0));
}

#[test]
fn two_bitmaps_cannot_have_one_name() {
    let mut image = qcow2_image();
    image[139] = 2;
    image[144..152].copy_from_slice(&64u64.to_be_bytes());
    image.copy_within(0x3000..0x3020, 0x3020);
    assert_eq!(text(&report_of(image, format::QCOW2)), "Bitmap already exists: b0");
}

#[test]
fn more_snapshots_than_room_are_refused() {
    let mut image = qcow2_image();
    image[60..64].copy_from_slice(&65_536u32.to_be_bytes());
    let report = report_of(image, format::QCOW2);
    assert_eq!(ReportHeader::get(&report).error_kind, error_kind::REFUSED);
}

#[test]
fn another_programs_job_is_refused() {
    let mut report = vec![0; 1 << 16];
    run(&[0; 64], &mut MemoryStorage::default(), &mut report);
    assert_eq!((ReportHeader::get(&report).error_kind, &*text(&report)), (error_kind::INTERNAL, "there is no job"));
}

proptest! {
    #[test]
    fn no_image_panics(edits in proptest::collection::vec((0usize..0x3030, any::<u8>()), 0..10), format in 0u32..4) {
        let mut image = qcow2_image();
        for (offset, byte) in edits {
            // Half of the edits land in the header, where they matter.
            image[if byte % 2 == 0 { offset } else { offset % 170 }] = byte;
        }
        let report = report_of(image, format);
        prop_assert_eq!(ReportHeader::get(&report).magic, instar_abi::report::REPORT_MAGIC);
    }
}
