//! vmdk images at the edges of what their tables can say: grains on metadata, tables behind the end of the file, and how long a
//! file is once it is empty.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod support;
mod vmdk_support;

use instar_abi::job::{commit_flag, format};
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use support::{QCOW2, RAW, Shape, commit, commit_with, empty_image, read, write};
use vmdk_support::{Sparse, sparse};

const FORMATS: [u32; 2] = [QCOW2, format::VMDK];
const SECTORS: u64 = 512;

fn shape(redundant: bool) -> Sparse {
    Sparse {
        sectors: SECTORS,
        grain_sectors: 8,
        table_entries: 16,
        zeroed_grains: false,
        redundant,
        compressed: false,
        preallocated: true,
        cid: 1,
        parent_cid: u32::MAX,
    }
}

fn data(guest_offset: u64, length_bytes: u64) -> Extent {
    Extent { guest_offset, length_bytes, source: Source::Data { device: 2, host_offset: 0 } }
}

/// A qcow2 overlay that holds a sector, on a vmdk image that holds the first bytes.
fn chain(redundant: bool) -> MemoryStorage {
    chain_on(&shape(redundant))
}

fn chain_on(base: &Sparse) -> MemoryStorage {
    let size_bytes = SECTORS * 512;
    let overlay =
        Shape { version: 3, cluster_bits: 9, refcount_order: 4, extended_l2: false, size_bytes, has_backing: true };
    let devices = vec![empty_image(&overlay), sparse(base), vec![0x5a; 1 << 16]];
    let mut storage = MemoryStorage { devices };
    write(&mut storage, &FORMATS, 1, &[data(0, 4096)]);
    write(&mut storage, &FORMATS, 0, &[data(100_000, 512)]);
    storage
}

fn field(image: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(image[offset..offset + 8].try_into().expect("eight bytes"))
}

fn entry(image: &[u8], offset: u64) -> u32 {
    u32::from_le_bytes(image[offset as usize..offset as usize + 4].try_into().expect("four bytes"))
}

fn set_entry(image: &mut [u8], offset: u64, sector: u32) {
    image[offset as usize..offset as usize + 4].copy_from_slice(&sector.to_le_bytes());
}

/// Where the grain directory lies, in bytes.
fn directory(image: &[u8]) -> u64 {
    field(image, 56) * 512
}

fn refusal(damage: impl Fn(&mut Vec<u8>)) -> String {
    refusal_of(chain(false), damage)
}

fn refusal_of(mut storage: MemoryStorage, damage: impl Fn(&mut Vec<u8>)) -> String {
    damage(&mut storage.devices[1]);
    let before = storage.devices.clone();
    let text = commit(&mut storage, &FORMATS).expect_err("a damaged base");
    assert!(storage.devices == before, "something was written: {text}");
    text
}

#[test]
fn no_grain_lies_on_metadata() {
    // Grains of one sector touch one thing each.
    let base = Sparse { grain_sectors: 1, ..shape(false) };
    for what in ["the descriptor", "the grain directory", "a grain table"] {
        let text = refusal_of(chain_on(&base), |image| {
            let table = entry(image, directory(image));
            let sector = match what {
                "the descriptor" => 2,
                "the grain directory" => field(image, 56) as u32,
                _ => table,
            };
            set_entry(image, u64::from(table) * 512 + 4 * 15, sector);
        });
        assert!(text.contains("overlaps metadata"), "{what}: {text}");
    }
    // A longer one touches what it begins before.
    let text = refusal(|image| {
        let table = entry(image, directory(image));
        set_entry(image, u64::from(table) * 512 + 4 * 5, 2);
    });
    assert!(text.contains("overlaps metadata"), "{text}");
}

#[test]
fn a_table_beyond_the_end_of_the_file_is_named() {
    for far in [1, 1000] {
        let text = refusal(|image| {
            let (place, sectors) = (directory(image) + 4, image.len().div_ceil(512) as u32);
            set_entry(image, place, sectors - 1 + far);
        });
        assert!(text.contains("beyond the end of the file (directory index: 0x1)"), "{text}");
    }
}

#[test]
fn an_emptied_image_is_as_long_as_a_new_one() {
    for redundant in [false, true] {
        let new = sparse(&Sparse { parent_cid: 1, ..shape(redundant) });
        let devices = vec![new.clone(), vec![0x11; (SECTORS * 512) as usize], vec![0x5a; 1 << 16]];
        let mut storage = MemoryStorage { devices };
        let formats = [format::VMDK, RAW];
        write(&mut storage, &formats, 0, &[data(0, 9000), data(200_000, 512)]);
        assert!(storage.devices[0].len() > new.len());
        let shown = read(&mut storage, &formats, 0);
        commit_with(&mut storage, &formats, commit_flag::EMPTY_OVERLAY).expect("a sound chain");
        assert!(storage.devices[1] == shown);
        assert_eq!(storage.devices[0].len(), new.len(), "redundant: {redundant}");
        assert!(read(&mut storage, &formats, 0) == shown);
    }
}

#[test]
fn grains_lie_behind_the_first_megabytes_as_well() {
    let large = Sparse { sectors: 48 << 11, grain_sectors: 128, table_entries: 512, ..shape(false) };
    let devices = vec![sparse(&large), Vec::new(), vec![0x5a; 24 << 20]];
    let mut storage = MemoryStorage { devices };
    write(&mut storage, &[format::VMDK], 0, &[data(1 << 20, 20 << 20)]);
    storage.devices.truncate(1);
    let content = read(&mut storage, &[format::VMDK], 0);
    let wanted = |at: usize| if (1 << 20..21 << 20).contains(&at) { 0x5a } else { 0 };
    assert!(content.iter().enumerate().all(|(at, byte)| *byte == wanted(at)));
}
