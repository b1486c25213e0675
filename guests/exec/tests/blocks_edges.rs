//! Images of tables and blocks at the edges of what they can say: entries that lead nowhere, tables that are cut off, and what
//! lies in a file behind its last block.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod blocks_support;
mod support;

use blocks_support::{Blueprint, FORMATS, empty_blocks, fixed_vpc};
use instar_abi::job::{JobHeader, format, operation};
use instar_abi::report::{InfoReport, ReportHeader, info_flag};
use instar_abi::wire::Wire;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, Shape, commit, empty_image, job, read, write};

const BLOCK_BYTES: u64 = 4096;
const DISK_BYTES: u64 = 3 << 20;

fn blueprint(format: u32, size_bytes: u64) -> Blueprint {
    Blueprint { format, block_bits: 12, size_bytes, has_backing: false }
}

/// A qcow2 overlay of the same size, the image, and what extents are filled from.
fn over(image: Vec<u8>, size_bytes: u64) -> MemoryStorage {
    let shape =
        Shape { version: 3, cluster_bits: 12, refcount_order: 4, extended_l2: false, size_bytes, has_backing: true };
    MemoryStorage { devices: vec![empty_image(&shape), image, vec![0x5a; 1 << 16]] }
}

fn data(guest_offset: u64, length_bytes: u64) -> Extent {
    Extent { guest_offset, length_bytes, source: Source::Data { device: 2, host_offset: 0 } }
}

/// A parallels image of three clusters of 4 KiB, of which the second one holds 0x77.
fn parallels(is_extended: bool) -> Vec<u8> {
    let mut image = vec![0; 3 * BLOCK_BYTES as usize];
    image[..16].copy_from_slice(if is_extended { b"WithouFreSpacExt" } else { b"WithoutFreeSpace" });
    let in_units = if is_extended { 2 } else { 2 * BLOCK_BYTES as u32 / 512 };
    for (offset, value) in [(16, 2), (28, 8), (32, 3), (36, 24), (68, in_units)] {
        image[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    image[2 * BLOCK_BYTES as usize..].fill(0x77);
    image
}

#[test]
fn both_kinds_of_parallels_images_are_read() {
    for is_extended in [false, true] {
        let mut storage = MemoryStorage { devices: vec![parallels(is_extended)] };
        let mut wanted = vec![0; 3 * BLOCK_BYTES as usize];
        wanted[BLOCK_BYTES as usize..2 * BLOCK_BYTES as usize].fill(0x77);
        assert!(read(&mut storage, &[format::PARALLELS], 0) == wanted, "extended: {is_extended}");
    }
}

#[test]
fn a_table_that_is_cut_off_is_named() {
    for (format, table_bytes) in [(format::QED, 4096), (format::QCOW, 64 * 8)] {
        let mut storage = over(empty_blocks(&blueprint(format, DISK_BYTES)), DISK_BYTES);
        let formats = [QCOW2, format];
        write(&mut storage, &formats, 1, &[data(0, BLOCK_BYTES)]);
        let entry = if format == format::QED { &storage.devices[1][4096..4104] } else { &storage.devices[1][56..64] };
        let entry: [u8; 8] = entry.try_into().expect("eight bytes");
        let table = if format == format::QED { u64::from_le_bytes(entry) } else { u64::from_be_bytes(entry) };
        // Moved to the end of the file, where it is whole, and then cut by a byte.
        let mut image = storage.devices[1].clone();
        let place = image.len().next_multiple_of(BLOCK_BYTES as usize);
        let bytes = image[table as usize..table as usize + table_bytes].to_vec();
        image.resize(place, 0);
        image.extend(bytes);
        let entry = if format == format::QED { (place as u64).to_le_bytes() } else { (place as u64).to_be_bytes() };
        let at = if format == format::QED { 4096 } else { 56 };
        image[at..at + 8].copy_from_slice(&entry);
        let shown = read(&mut storage, &formats, 1);
        storage.devices[1].clone_from(&image);
        assert!(read(&mut storage, &formats, 1) == shown, "format {format}");
        image.pop();
        storage.devices[1] = image;
        let text = commit(&mut storage, &formats).expect_err("a table is cut off");
        assert_eq!(text, format!("L2 table offset {place:#x} invalid (L1 index: 0x0)"));
    }
}

#[test]
fn a_block_beyond_all_files_is_named() {
    let mut storage = over(empty_blocks(&blueprint(format::VHDX, DISK_BYTES)), DISK_BYTES);
    write(&mut storage, &[QCOW2, format::VHDX], 0, &[data(0, 512)]);
    storage.devices[1][3 << 20..(3 << 20) + 8].copy_from_slice(&0xffff_ffff_fff0_0006_u64.to_le_bytes());
    let text = commit(&mut storage, &[QCOW2, format::VHDX]).expect_err("a block lies nowhere");
    assert!(text.contains("lies beyond the end of the file"), "{text}");
}

#[test]
fn a_block_table_must_have_room_for_the_disk() {
    // 200 GiB in blocks of 1 MiB need a table of more than 1 MiB.
    let size_bytes = 200 << 30;
    let mut storage = over(empty_blocks(&blueprint(format::VHDX, size_bytes)), 1 << 20);
    let text = commit(&mut storage, &[QCOW2, format::VHDX]).expect_err("the table is too small");
    assert!(text.contains("too small"), "{text}");
    let size_bytes = 100 << 30;
    let mut storage = over(empty_blocks(&blueprint(format::VHDX, size_bytes)), 1 << 20);
    assert_eq!(commit(&mut storage, &[QCOW2, format::VHDX]).expect("room").bytes_committed, 0);
}

#[test]
fn what_lies_behind_the_last_block_is_not_shown() {
    for format in FORMATS {
        let mut storage = over(empty_blocks(&blueprint(format, DISK_BYTES)), DISK_BYTES);
        let formats = [QCOW2, format];
        write(&mut storage, &formats, 1, &[data(0, 512)]);
        // Left behind by a crash, say.
        let junk = storage.devices[1].len() + (2 << 20);
        storage.devices[1].resize(junk, 0xee);
        for guest_offset in [(2 << 20) + 1024, (2 << 20) + 512 * 1023] {
            write(&mut storage, &formats, 0, &[data(guest_offset, 512)]);
        }
        let shown = read(&mut storage, &formats, 0);
        if format == format::VPC {
            // There the file ends with its footer.
            assert!(commit(&mut storage, &formats).is_err() || read(&mut storage, &formats, 1) == shown);
            continue;
        }
        commit(&mut storage, &formats).expect("a sound image");
        assert!(read(&mut storage, &formats, 1) == shown, "format {format}");
    }
}

#[test]
fn what_a_qed_image_says_of_itself_is_told() {
    for (features, flags) in [
        (0, 0),
        (2, info_flag::DIRTY),
        (1, info_flag::HAS_BACKING),
        (5, info_flag::HAS_BACKING | info_flag::HAS_BACKING_FORMAT),
    ] {
        let mut image =
            empty_blocks(&Blueprint { has_backing: features & 1 != 0, ..blueprint(format::QED, DISK_BYTES) });
        image[16] |= features;
        let mut bytes = job(&[format::QED], 0, 0);
        JobHeader { operation: operation::INFO, ..JobHeader::get(&bytes) }.put(&mut bytes);
        let mut report = vec![0; 1 << 16];
        instar_exec::info::run(&bytes, &mut MemoryStorage { devices: vec![image] }, &mut report);
        let info = InfoReport::get(&report[ReportHeader::SIZE_BYTES..]);
        assert_eq!((info.format, info.flags), (format::QED, flags), "features {features}");
    }
}

#[test]
fn a_vpc_image_of_fixed_size_is_written_in_place_and_does_not_grow() {
    let content: Vec<u8> = (0..64 * 512).map(|at| (at / 512) as u8 + 1).collect();
    let size_bytes = content.len() as u64;
    let formats = [QCOW2, format::VPC];
    let mut storage = over(fixed_vpc(&content), size_bytes);
    assert!(read(&mut storage, &formats, 1) == content);
    write(&mut storage, &formats, 0, &[data(1000, 3000)]);
    let shown = read(&mut storage, &formats, 0);
    commit(&mut storage, &formats).expect("a sound image");
    assert!(storage.devices[1] == fixed_vpc(&shown));
    let mut storage = over(fixed_vpc(&content), 2 * size_bytes);
    write(&mut storage, &formats, 0, &[data(size_bytes, 512)]);
    assert_eq!(commit(&mut storage, &formats).expect_err("a disk that cannot grow"), "Operation not supported");
    assert!(storage.devices[1] == fixed_vpc(&content));
}

#[test]
fn a_growing_vpc_image_gets_longer_by_its_blocks() {
    let formats = [QCOW2, format::VPC];
    let mut storage = over(empty_blocks(&blueprint(format::VPC, DISK_BYTES)), DISK_BYTES);
    let empty = storage.devices[1].len();
    write(&mut storage, &formats, 0, &[data(0, 512), data(9 * BLOCK_BYTES, 512)]);
    commit(&mut storage, &formats).expect("a sound image");
    // Before each block lies a sector that says which of its sectors are there.
    assert_eq!(storage.devices[1].len(), empty + 2 * (BLOCK_BYTES as usize + 512));
}
