use std::ffi::OsString;

use instar_abi::job::format;
use instar_abi::report::{BitmapItem, InfoReport, LUKS_SLOTS, LuksItem, LuksSlotItem, PayloadItem, SnapshotItem};
use instar_abi::report::{info_flag, payload_kind};
use instar_abi::wire::Wire;
use proptest::prelude::*;

use super::render::{render_human, render_json};
use super::*;

fn report(flags: u32) -> InfoReport {
    InfoReport {
        format: format::QCOW2,
        flags,
        version: 3,
        refcount_bits: 16,
        virtual_size_bytes: 8 << 20,
        cluster_size_bytes: 65536,
        l1_entries: 1,
        backing_name_length_bytes: 10,
        backing_format_length_bytes: 5,
        data_file_name_length_bytes: 8,
        reserved: 0,
        backing_name: padded(b"base.qcow2"),
        data_file_name: padded(b"disk.raw"),
        backing_format: padded(b"qcow2"),
    }
}

fn padded<const N: usize>(name: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    field[..name.len()].copy_from_slice(name);
    field
}

fn bytes_of(value: &impl Wire, size_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; size_bytes];
    value.put(&mut bytes);
    bytes
}

fn item<T: Wire>(kind: u32, value: &T, tail: &[u8]) -> Vec<u8> {
    let length_bytes = u32::try_from(T::SIZE_BYTES + tail.len()).unwrap();
    let head = bytes_of(&PayloadItem { kind, length_bytes }, PayloadItem::SIZE_BYTES);
    [head, bytes_of(value, T::SIZE_BYTES), tail.to_vec()].concat()
}

fn snapshot(icount: u64) -> Vec<u8> {
    let value = SnapshotItem {
        date_seconds: 1_795_330_810,
        date_nanoseconds: 972_142_000,
        vm_clock_nanoseconds: 3_661_005_000_007,
        vm_state_size_bytes: 1000,
        icount,
        id_length_bytes: 1,
        name_length_bytes: 2,
    };
    item(payload_kind::SNAPSHOT, &value, b"1o1")
}

fn bitmap(flags: u32) -> Vec<u8> {
    item(payload_kind::BITMAP, &BitmapItem { granularity_bytes: 65536, flags, name_length_bytes: 2 }, b"b0")
}

fn luks() -> Vec<u8> {
    let value = LuksItem {
        payload_offset_bytes: 2_068_480,
        master_key_iterations: 10_659,
        reserved: 0,
        cipher_alg: padded(b"aes-256"),
        cipher_mode: padded(b"xts"),
        ivgen_alg: padded(b"plain64"),
        ivgen_hash_alg: padded(b""),
        hash_alg: padded(b"sha256"),
        uuid: padded(b"3d1d1952-bf2a-4a15-a567-10eab5c01c2b"),
    };
    let slot = |is_active: bool, key_offset_bytes| {
        let item = LuksSlotItem {
            is_active: is_active.into(),
            iterations: 45_010,
            stripes: 4000,
            reserved: 0,
            key_offset_bytes,
        };
        bytes_of(&item, LuksSlotItem::SIZE_BYTES)
    };
    let slots: Vec<u8> = (0..LUKS_SLOTS).flat_map(|index| slot(index == 0, 4096 + 258_048 * index as u64)).collect();
    item(payload_kind::LUKS, &value, &slots)
}

fn decode(report: &InfoReport, payload: &[u8]) -> Result<ImageInfo, BadReport> {
    ImageInfo::decode(&bytes_of(report, InfoReport::SIZE_BYTES), payload)
}

fn facts(name: &str, length_bytes: u64) -> FileFacts {
    FileFacts { filename: OsString::from(name), length_bytes, allocated_bytes: 1_576_960 }
}

fn overlay(flags: u32, payload: &[u8]) -> ImageEntry {
    let info = decode(&report(flags | info_flag::HAS_BACKING | info_flag::HAS_BACKING_FORMAT), payload).unwrap();
    ImageEntry { info, file: facts("vm/overlay.qcow2", 1_769_000), data_file: None, extent_files: Vec::new() }
}

fn json(entry: &ImageEntry, version: &str) -> String {
    String::from_utf8(render_json(std::slice::from_ref(entry), version.parse().unwrap(), false)).unwrap()
}

fn human(entry: &ImageEntry, version: &str) -> String {
    render_human(std::slice::from_ref(entry), version.parse().unwrap(), &|_| "2026-11-22 07:00:10".to_owned())
}

#[test]
fn json_of_an_overlay_in_every_member() {
    let entry = overlay(info_flag::DIRTY | info_flag::ZSTD, &[snapshot(0), bitmap(3), bitmap(0)].concat());
    assert_eq!(json(&entry, "10.0.2"), include_str!("testdata/overlay-10.0.2.json"));
    assert_eq!(json(&entry, "6.0.0"), include_str!("testdata/overlay-6.0.0.json"));
}

#[test]
fn json_of_a_chain_is_a_list() {
    let raw = InfoReport { format: format::RAW, cluster_size_bytes: 0, ..report(0) };
    let raw = ImageEntry {
        info: decode(&raw, b"").unwrap(),
        file: facts("base.raw", 8 << 20),
        data_file: None,
        extent_files: Vec::new(),
    };
    let chain = render_json(&[overlay(0, b""), raw], Version::new(7, 2, 0), true);
    assert_eq!(String::from_utf8(chain).unwrap(), include_str!("testdata/chain-7.2.0.json"));
}

#[test]
fn the_data_file_is_a_child_in_some_versions_only() {
    let flags = info_flag::DATA_FILE | info_flag::HAS_DATA_FILE_NAME;
    let entry = ImageEntry { data_file: Some(facts("vm/disk.raw", 8 << 20)), ..overlay(flags, &snapshot(0)) };
    for (version, is_child) in
        [("7.2.22", false), ("8.0.0", true), ("9.0.0", true), ("9.1.0", false), ("11.1.3", false)]
    {
        let text = json(&entry, version);
        assert_eq!(text.contains("\"name\": \"data-file\""), is_child, "{version}");
        assert_eq!(text.contains("\"actual-size\": 3153920"), is_child, "{version}");
        assert!(text.contains("\"data-file\": \"disk.raw\",\n            \"data-file-raw\": false,"));
        assert!(!text.contains("snapshots"));
    }
}

#[test]
fn a_dirty_image_is_reported_since_6_1() {
    let entry = overlay(info_flag::DIRTY, b"");
    assert!(json(&entry, "6.0.0").contains("\"dirty-flag\": false\n}"));
    assert!(json(&entry, "6.1.0").contains("\"dirty-flag\": true\n}"));
    assert!(!human(&entry, "6.0.0").contains("cleanly shut down"));
    assert!(human(&entry, "6.1.0").contains("cluster_size: 65536\ncleanly shut down: no\nbacking file:"));
}

#[test]
fn version_2_images_have_fewer_members() {
    let mut entry = overlay(0, b"");
    entry.info.qcow2.as_mut().unwrap().version = 2;
    let expected = "        \"data\": {\n            \"compat\": \"0.10\",\n            \"compression-type\": \"zlib\",\n            \
                    \"refcount-bits\": 16\n        }\n";
    assert!(json(&entry, "10.0.2").contains(expected));
}

#[test]
fn encryption_has_its_object() {
    let luks = overlay(info_flag::ENCRYPT_LUKS, &luks());
    assert_eq!(json(&luks, "11.1.3"), include_str!("testdata/luks-11.1.3.json"));
    assert!(json(&luks, "9.0.0").contains("detached-header") && !json(&luks, "8.2.0").contains("detached-header"));
    let aes = overlay(info_flag::ENCRYPT_AES, b"");
    assert!(json(&aes, "11.1.3").contains("\"encrypt\": {\n                \"format\": \"aes\"\n            },"));
    assert!(human(&aes, "11.1.3").contains("disk size: 1.5 MiB\nencrypted: yes\ncluster_size: 65536\n"));
}

#[test]
fn a_backing_format_without_a_name_is_not_shown() {
    let info = decode(&report(info_flag::HAS_BACKING_FORMAT), b"").unwrap();
    let entry = ImageEntry { info, file: facts("a.qcow2", 0), data_file: None, extent_files: Vec::new() };
    assert!(!json(&entry, "10.0.2").contains("backing"));
    assert!(!human(&entry, "10.0.2").contains("backing"));
}

#[test]
fn text_for_people() {
    let entry = overlay(0, &[snapshot(u64::MAX), bitmap(3)].concat());
    assert_eq!(human(&entry, "10.0.2"), include_str!("testdata/overlay-10.0.2.txt"));
    assert_eq!(human(&entry, "7.2.0"), include_str!("testdata/overlay-7.2.0.txt"));
    let chain = [entry.clone(), entry];
    let text = render_human(&chain, Version::default(), &|_| String::new());
    assert!(text.contains("    disk size: 1.5 MiB\n\nimage: vm/overlay.qcow2\n"));
}

#[test]
fn names_cannot_move_the_cursor() {
    let mut entry = overlay(0, b"");
    entry.info.backing_name = Some(b"a\n\x1b[2J\xff".to_vec());
    assert!(human(&entry, "10.0.2").contains("backing file: a\\n\\x1b[2J\\xff (actual path: vm/a\\n\\x1b[2J\\xff)\n"));
    assert!(json(&entry, "10.0.2").contains("\"backing-filename\": \"a\\n\\u001B[2J\\uFFFD\""));
}

#[test]
fn reports_that_contradict_themselves_are_refused() {
    let good = report(0);
    assert!(decode(&good, b"").is_ok());
    for bad in [
        InfoReport { format: format::PROBE, ..good.clone() },
        InfoReport { format: 99, ..good.clone() },
        InfoReport { version: 4, ..good.clone() },
        InfoReport { refcount_bits: 0, ..good.clone() },
        InfoReport { refcount_bits: 128, ..good.clone() },
        InfoReport { backing_name_length_bytes: 1025, ..good.clone() },
        InfoReport { backing_format_length_bytes: 17, ..good.clone() },
        InfoReport { flags: info_flag::ENCRYPT_LUKS, ..good.clone() },
    ] {
        assert!(decode(&bad, b"").is_err(), "{bad:?}");
    }
    let whole = [snapshot(0), bitmap(0)].concat();
    for length in 1..whole.len() {
        assert_eq!(decode(&good, &whole[..length]).is_ok(), length == snapshot(0).len());
    }
    assert!(decode(&good, &luks()).is_err());
    assert!(ImageInfo::decode(&[0; 16], b"").is_err());
}

proptest! {
    #[test]
    fn no_report_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut operation = bytes_of(&report(info_flag::ENCRYPT_LUKS), InfoReport::SIZE_BYTES);
        let mut payload = [snapshot(5), bitmap(1), luks()].concat();
        for (index, byte) in edits {
            let length = operation.len();
            match index.index(length + payload.len()) {
                offset if offset < 64 => operation[offset] = byte,
                offset if offset >= length => payload[offset - length] = byte,
                offset => operation[offset] = byte,
            }
        }
        if cut.index(4) == 0 {
            payload.truncate(cut.index(payload.len()));
        }
        if let Ok(info) = ImageInfo::decode(&operation, &payload) {
            let entry = ImageEntry { info, file: facts("a", u64::MAX), data_file: None, extent_files: Vec::new() };
            let value: serde_json::Value = serde_json::from_str(&json(&entry, "11.1.3")).unwrap();
            prop_assert!(value["virtual-size"].is_u64());
            let _ = human(&entry, "6.0.0");
        }
    }
}
