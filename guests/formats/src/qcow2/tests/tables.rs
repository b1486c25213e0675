//! Snapshot tables and bitmap directories.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Image;
use crate::qcow2::bitmap::{self, Bitmap, BitmapDirectory};
use crate::qcow2::snapshot::{self, Snapshot, SnapshotTable};
use crate::qcow2::{Access, BitmapsPointer, Header};

fn snapshot_entry(extra: &[u8], id: &[u8], name: &[u8]) -> Vec<u8> {
    let mut entry = Vec::new();
    entry.extend(0x3_0000u64.to_be_bytes());
    entry.extend(1u32.to_be_bytes());
    entry.extend(u16::try_from(id.len()).unwrap().to_be_bytes());
    entry.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
    entry.extend(1_795_330_810u32.to_be_bytes());
    entry.extend(951_362_000u32.to_be_bytes());
    entry.extend(3u64.to_be_bytes());
    entry.extend(5u32.to_be_bytes());
    entry.extend(u32::try_from(extra.len()).unwrap().to_be_bytes());
    for part in [extra, id, name] {
        entry.extend(part);
    }
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

/// Reads a table whose bytes arrive as they are asked for, and no more.
fn snapshots(count: u32, offset: u64, table: &[u8]) -> Result<Vec<Snapshot>, String> {
    let mut image = Image::v3();
    image.u32(60, count).u64(64, offset);
    let header = Header::parse(&image.bytes, Access::Inspect).unwrap();
    let mut position = SnapshotTable::new(&header);
    let mut found = Vec::new();
    let mut needed = 0;
    loop {
        let start = usize::try_from(position.next_offset() - offset).unwrap().min(table.len());
        let mut bytes = table[start..table.len().min(start + needed)].to_vec();
        bytes.resize(needed, 0);
        match position.step(&bytes).map_err(|error| error.to_string())? {
            snapshot::Step::Entry(snapshot) => {
                needed = 0;
                found.push(snapshot);
            }
            snapshot::Step::NeedBytes(bytes) => {
                assert!(bytes > needed, "every request is larger than the last");
                needed = bytes;
            }
            snapshot::Step::End => return Ok(found),
        }
    }
}

#[test]
fn read_snapshots() {
    let extra = [77u64.to_be_bytes(), 0x80_0000u64.to_be_bytes(), 9u64.to_be_bytes(), [0; 8]].concat();
    let table = [snapshot_entry(b"", b"1", b"s1"), snapshot_entry(&extra, b"2\0x", b"a name")].concat();
    let found = snapshots(2, 0x5_0000, &table).unwrap();
    assert_eq!((&found[0].id[..], &found[0].name[..]), (&b"1"[..], &b"s1"[..]));
    assert_eq!((found[0].vm_state_size_bytes, found[0].virtual_size_bytes, found[0].icount), (5, None, None));
    assert_eq!((&found[1].id[..], &found[1].name[..]), (&b"2"[..], &b"a name"[..]));
    assert_eq!((found[1].vm_state_size_bytes, found[1].virtual_size_bytes), (77, Some(0x80_0000)));
    assert_eq!(found[1].icount, Some(9));
    assert_eq!((found[1].date_seconds, found[1].date_nanoseconds), (1_795_330_810, 951_362_000));
}

#[test]
fn a_table_behind_the_end_of_the_file_has_empty_snapshots() {
    let found = snapshots(3, 0x5_0000, b"").unwrap();
    assert_eq!(found.len(), 3);
    assert!(found[2].name.is_empty());
}

#[test]
fn long_snapshot_names_are_cut() {
    let found = snapshots(1, 0x5_0000, &snapshot_entry(b"", &[b'i'; 200], &[b'n'; 65535])).unwrap();
    assert_eq!((found[0].id.len(), found[0].name.len()), (127, 255));
}

#[test]
fn snapshot_tables_have_limits() {
    assert_eq!(
        snapshots(1, 0x5_0000, &snapshot_entry(&[0; 1025], b"", b"")).unwrap_err(),
        "Too much extra metadata in snapshot table entry 0\n\
         You can force-remove this extra metadata with qemu-img check -r all"
    );
    assert_eq!(
        snapshots(1, 0x7fff_ffff_c000_0000, b"").unwrap_err(),
        "Failed to read snapshot table: Input/output error"
    );
    let long = snapshot_entry(&[0; 1024], b"1", b"n");
    assert_eq!(
        snapshots(65_536, 0x5_0000, &long.repeat(65_536)).unwrap_err(),
        "Snapshot table is too big\n\
         You can force-remove all 2935 overhanging snapshots with qemu-img check -r all"
    );
}

struct BitmapEntry<'a> {
    table: u64,
    entries: u32,
    flags: u32,
    kind: u8,
    granularity: u8,
    name: &'a [u8],
    extra: u32,
}

const GOOD: BitmapEntry<'static> =
    BitmapEntry { table: 0x4_0000, entries: 1, flags: 2, kind: 1, granularity: 16, name: b"b0", extra: 0 };

impl BitmapEntry<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut entry = Vec::new();
        entry.extend(self.table.to_be_bytes());
        entry.extend(self.entries.to_be_bytes());
        entry.extend(self.flags.to_be_bytes());
        entry.extend([self.kind, self.granularity]);
        entry.extend(u16::try_from(self.name.len()).unwrap().to_be_bytes());
        entry.extend(self.extra.to_be_bytes());
        entry.extend(self.name);
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry
    }
}

fn bitmaps(count: u32, directory: &[u8]) -> Result<Vec<Bitmap>, String> {
    bitmaps_of(&Image::v3(), count, directory)
}

fn bitmaps_of(image: &Image, count: u32, directory: &[u8]) -> Result<Vec<Bitmap>, String> {
    let header = Header::parse(&image.bytes, Access::Inspect).unwrap();
    let directory_size_bytes = directory.len() as u64;
    let pointer = BitmapsPointer { count, directory_size_bytes, directory_offset: 0x5_0000 };
    let mut position = BitmapDirectory::new(&header, pointer).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let mut needed = 0;
    loop {
        let start = usize::try_from(position.next_offset() - 0x5_0000).unwrap();
        let bytes = &directory[start..directory.len().min(start + needed)];
        match position.step(bytes).map_err(|error| error.to_string())? {
            bitmap::Step::Entry(bitmap) => {
                needed = 0;
                found.push(bitmap);
            }
            bitmap::Step::NeedBytes(bytes) => {
                assert!(bytes > needed, "every request is larger than the last");
                needed = bytes;
            }
            bitmap::Step::End => return Ok(found),
        }
    }
}

#[test]
fn read_bitmaps() {
    let second = BitmapEntry { flags: 1, granularity: 9, name: b"", ..GOOD };
    let found = bitmaps(2, &[GOOD.bytes(), second.bytes()].concat()).unwrap();
    assert!(found[0].is_enabled() && !found[0].is_in_use() && found[1].is_in_use() && !found[1].is_enabled());
    assert_eq!((found[0].granularity_bytes(), found[1].granularity_bytes()), (65_536, 512));
    assert_eq!((&found[0].name[..], &found[1].name[..]), (&b"b0"[..], &b""[..]));
}

#[test]
fn bitmap_fields_have_limits() {
    for entry in [
        BitmapEntry { flags: 4, ..GOOD },
        BitmapEntry { kind: 2, ..GOOD },
        BitmapEntry { granularity: 8, ..GOOD },
        BitmapEntry { granularity: 32, ..GOOD },
        BitmapEntry { table: 0, ..GOOD },
        BitmapEntry { table: 1, ..GOOD },
        BitmapEntry { entries: 0, ..GOOD },
        BitmapEntry { entries: 8193, flags: 3, ..GOOD },
    ] {
        assert_eq!(bitmaps(1, &entry.bytes()).unwrap_err(), "Bitmap 'b0' doesn't satisfy the constraints");
    }
    assert!(bitmaps(1, &BitmapEntry { name: &[b'n'; 1023], ..GOOD }.bytes()).is_ok());
    assert!(bitmaps(1, &BitmapEntry { name: &[b'n'; 1024], ..GOOD }.bytes()).is_err());
    let text = |entry: BitmapEntry<'_>| bitmaps(1, &entry.bytes()).unwrap_err();
    assert_eq!(text(BitmapEntry { extra: 8, ..GOOD }), "Broken bitmap directory");
    assert_eq!(text(BitmapEntry { extra: u32::MAX, ..GOOD }), "Bitmap extra data is not supported");
    assert_eq!(text(BitmapEntry { entries: 2, ..GOOD }), "Could not read bitmap 'b0' from image: Invalid argument");
    assert_eq!(
        text(BitmapEntry { table: 0x7fff_ffff_ffff_0000, ..GOOD }),
        "Could not read bitmap_table table from image for bitmap 'b0': Input/output error"
    );
    assert!(bitmaps(1, &BitmapEntry { entries: 2, flags: 1, ..GOOD }.bytes()).is_ok());
}

/// The directory of an image of `size_bytes` with one bitmap.
fn bitmap_of(size_bytes: u64, entry: &BitmapEntry<'_>) -> Result<Vec<Bitmap>, String> {
    let mut image = Image::v3();
    bitmaps_of(image.u64(24, size_bytes), 1, &entry.bytes())
}

#[test]
fn a_bitmap_can_be_full_to_the_last_bit() {
    let fine = BitmapEntry { granularity: 9, ..GOOD };
    assert!(bitmap_of(256 << 20, &fine).is_ok());
    assert_eq!(bitmap_of((256 << 20) + 4096, &fine).unwrap_err(), "Bitmap 'b0' doesn't satisfy the constraints");
    // One that is in use may be of any length.
    assert!(bitmap_of((256 << 20) + 4096, &BitmapEntry { flags: 3, ..fine }).is_ok());
}

#[test]
fn bitmap_directories_have_the_length_that_they_say() {
    let two = [GOOD.bytes(), BitmapEntry { name: b"b1", ..GOOD }.bytes()].concat();
    let text = |count, directory: &[u8]| bitmaps(count, directory).unwrap_err();
    assert_eq!(text(1, &two), "More bitmaps found than specified in header extension");
    assert_eq!(text(3, &two), "Less bitmaps found than specified in header extension");
    assert_eq!(text(1, &two[..40]), "Broken bitmap directory");
    assert_eq!(text(1, &two[..26]), "Broken bitmap directory");
    assert_eq!(text(1, b""), "Requested bitmap directory size is zero");
    assert_eq!(text(1, &[0; 24]), "Bitmap '' doesn't satisfy the constraints");
}
