//! Encrypted images in memory. The same is done to a chain of encrypted images and to one of plain images; what the
//! encrypted ones hold afterwards is found by an independent decryption, and must be what the plain ones hold.
#![allow(clippy::cast_possible_truncation, reason = "images are small here")]

#[path = "support/crashing.rs"]
mod crashing;
#[path = "luks_support/images.rs"]
mod images;
mod luks_support;
#[path = "luks_support/maker.rs"]
mod maker;
mod support;

use crashing::Crashing;
use images::{SECRET, encrypted, volume, with_secret};
use instar_abi::job::{commit_flag, format};
use instar_abi::report::{ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::layer::Layer;
use instar_exec::memory::MemoryStorage;
use instar_exec::open::open_layers;
use instar_exec::{DeviceId, Storage, job::Job};
use instar_plan::extent::{Extent, Source};
use luks_support::{PASSPHRASE, encrypted_image};
use maker::{KEY_BYTES, PAYLOAD, decrypt};
use proptest::prelude::*;
use support::{QCOW2, RAW, Shape, empty_image, job, write};

const LUKS: u32 = format::LUKS;
const KEYS: [[u8; KEY_BYTES]; 2] = [[0x1c; KEY_BYTES], [0xe9; KEY_BYTES]];

/// Commits layer 0 into layer 1 of an image chain; `Err` holds the text of the failure.
fn commit(storage: &mut dyn Storage, formats: &[u32], secret: &[u8]) -> Result<(), String> {
    let bytes = with_secret(job(formats, 1, commit_flag::EMPTY_OVERLAY), secret);
    let mut report = vec![0; 4096];
    instar_exec::commit::run(&bytes, storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome == outcome::DONE {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned())
}

/// What the image at `layer` holds itself, byte by byte; `None` where it holds nothing. `key` decrypts it.
fn held(storage: &mut MemoryStorage, formats: &[u32], layer: u32, key: Option<&[u8; KEY_BYTES]>) -> Vec<Option<u8>> {
    if formats[layer as usize] == LUKS {
        let mut bytes = storage.devices[layer as usize][PAYLOAD..].to_vec();
        decrypt(key.unwrap(), 0, &mut bytes);
        return bytes.into_iter().map(Some).collect();
    }
    let bytes = job(formats, 1, 0);
    let job = Job::parse(&bytes).unwrap();
    let mut image: Box<dyn Layer> = open_layers(storage, &job, layer..layer + 1).unwrap().remove(0);
    let mut extents = Vec::new();
    let size_bytes = image.size_bytes();
    image.map(storage, 0, size_bytes, &mut extents).unwrap();
    let mut held = Vec::new();
    for Extent { length_bytes, source, .. } in extents {
        let length = length_bytes as usize;
        match source {
            Source::Absent => held.resize(held.len() + length, None),
            Source::Zero => held.resize(held.len() + length, Some(0)),
            Source::Compressed(_) => unreachable!("nothing is compressed here"),
            Source::Data { host_offset, .. } => {
                let start = host_offset / 512 * 512;
                let mut bytes = vec![0; (host_offset - start) as usize + length.next_multiple_of(512)];
                bytes.resize(bytes.len().next_multiple_of(512), 0);
                storage.read(DeviceId(layer), start, &mut bytes).unwrap();
                if let Some(key) = key {
                    decrypt(key, start / 512, &mut bytes);
                }
                let skipped = (host_offset - start) as usize;
                held.extend(bytes[skipped..skipped + length].iter().copied().map(Some));
            }
        }
    }
    held
}

/// A range that is written: where it begins, how long it is, and whether it becomes zeros.
type Write = (u64, u64, bool);

fn writes() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec((0..1000u64, prop_oneof![1..600u64, 1..200_000u64], any::<bool>()), 0..6)
}

fn shape(has_backing: bool) -> impl Strategy<Value = Shape> {
    let extended = prop_oneof![3 => Just(false), 1 => Just(true)];
    (12..=16u32, 3..=4u32, extended, 1..500_000u64).prop_map(move |(bits, order, extended, size)| Shape {
        version: 3,
        cluster_bits: if extended { bits.max(14) } else { bits },
        refcount_order: order,
        extended_l2: extended,
        size_bytes: size.next_multiple_of(512),
        has_backing,
    })
}

/// An image in which the writes, and nothing else, are allocated.
fn overlay(shape: &Shape, writes: &[Write]) -> Vec<u8> {
    let pattern: Vec<u8> = (0..1u32 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 7) as u8 | 1).collect();
    let mut storage = MemoryStorage { devices: vec![empty_image(shape), pattern] };
    let extents: Vec<Extent> = writes
        .iter()
        .filter_map(|(permille, length, is_zero)| {
            let guest_offset = shape.size_bytes * permille / 1000;
            let length_bytes = (*length).min(shape.size_bytes - guest_offset);
            let source =
                if *is_zero { Source::Zero } else { Source::Data { device: 1, host_offset: permille * 37 + length } };
            (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
        })
        .collect();
    write(&mut storage, &[QCOW2], 0, &extents);
    storage.devices.swap_remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encrypted_images_hold_what_plain_ones_hold(
        top in shape(true),
        base in prop::option::weighted(0.8, shape(false)),
        raw_bytes in 1..400_000u64,
        encrypts_top in any::<bool>(),
        below in writes(),
        above in writes(),
    ) {
        let raw_bytes = raw_bytes.next_multiple_of(512);
        let base_size = base.as_ref().map_or(raw_bytes, |base| base.size_bytes);
        let plain_base = base.as_ref().map_or_else(|| vec![0; raw_bytes as usize], empty_image);
        let secret_base =
            base.as_ref().map_or_else(|| volume(raw_bytes, &KEYS[1]), |base| encrypted(empty_image(base), &KEYS[1]));
        let base_formats = if base.is_some() { [QCOW2; 2] } else { [RAW, LUKS] };
        let first = overlay(&Shape { size_bytes: base_size, ..top.clone() }, &below);
        let second = overlay(&top, &above);

        // What the top image holds gets there by a commit as well: nothing else encrypts.
        let mut secret_top = MemoryStorage { devices: vec![second.clone(), encrypted(empty_image(&top), &KEYS[0])] };
        commit(&mut secret_top, &[QCOW2; 2], SECRET).unwrap();
        let mut plain = MemoryStorage { devices: vec![first.clone(), plain_base] };
        let mut secret = MemoryStorage { devices: vec![first, secret_base] };
        for (storage, format) in [(&mut plain, base_formats[0]), (&mut secret, base_formats[1])] {
            let formats = [QCOW2, format];
            commit(storage, &formats, SECRET).unwrap();
            storage.devices[0] = second.clone();
        }
        if encrypts_top {
            secret.devices[0] = secret_top.devices.pop().unwrap();
        }
        let top_key = encrypts_top.then_some(&KEYS[0]);
        prop_assert!(held(&mut secret, &[QCOW2], 0, top_key) == held(&mut plain, &[QCOW2], 0, None));
        commit(&mut plain, &[QCOW2, base_formats[0]], SECRET).unwrap();
        commit(&mut secret, &[QCOW2, base_formats[1]], SECRET).unwrap();
        // As a guest reads them: where a base grows in the middle of a cluster, what is new is written as zeros in an encrypted
        // one, whose clusters are never known to hold zeros, and may stay unallocated in the other.
        let shown = |held: Vec<Option<u8>>| held.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        let expected = shown(held(&mut plain, &[QCOW2, base_formats[0]], 1, None));
        let found = shown(held(&mut secret, &[QCOW2, base_formats[1]], 1, Some(&KEYS[1])));
        prop_assert!(found == expected, "the base holds something else");
        // The overlay is empty, and still encrypted.
        prop_assert!(held(&mut secret, &[QCOW2], 0, top_key).iter().all(Option::is_none));
        commit(&mut secret, &[QCOW2, base_formats[1]], SECRET).unwrap();
    }

    #[test]
    fn a_crash_loses_nothing_and_a_second_run_completes(
        top in shape(true),
        base in shape(false),
        below in writes(),
        above in writes(),
        crash_permille in 0..1000u64,
        seed in any::<u64>(),
    ) {
        let formats = [QCOW2; 2];
        let made = |shape: &Shape, writes: &[Write], key| {
            let devices = vec![overlay(shape, writes), encrypted(empty_image(shape), key)];
            let mut storage = MemoryStorage { devices };
            commit(&mut storage, &formats, SECRET).unwrap();
            storage.devices.swap_remove(1)
        };
        let storage = MemoryStorage { devices: vec![made(&top, &above, &KEYS[0]), made(&base, &below, &KEYS[1])] };
        let chain = |storage: &mut MemoryStorage| -> Vec<u8> {
            let lower = held(storage, &formats, 1, Some(&KEYS[1])).into_iter().chain(std::iter::repeat(None));
            let upper = held(storage, &formats, 0, Some(&KEYS[0]));
            upper.into_iter().zip(lower).map(|(upper, lower)| upper.or(lower).unwrap_or(0)).collect()
        };
        let before = chain(&mut storage.clone());
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        commit(&mut counting, &formats, SECRET).unwrap();
        prop_assume!(counting.requests != 0);
        let mut crashing = Crashing::new(storage, counting.requests * crash_permille / 1000, seed);
        commit(&mut crashing, &formats, SECRET).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(chain(&mut survived) == before, "the overlay reads differently after the crash");
        commit(&mut survived, &formats, SECRET).unwrap();
        prop_assert!(chain(&mut survived) == before, "the overlay reads differently after the second run");
        let own: Vec<u8> = held(&mut survived, &formats, 1, Some(&KEYS[1])).into_iter().map(|b| b.unwrap_or(0)).collect();
        prop_assert!(own.starts_with(&before), "the second run left something out");
    }

    #[test]
    fn hostile_headers_are_refused_and_nothing_changes(
        damage in prop::collection::vec((0..592usize, any::<u8>()), 1..12),
    ) {
        let shape = Shape {
            version: 3, cluster_bits: 12, refcount_order: 4, extended_l2: false, size_bytes: 1 << 16, has_backing: true,
        };
        let mut image = encrypted(overlay(&shape, &[]), &KEYS[0]);
        let start = image.windows(6).position(|bytes| bytes == b"LUKS\xba\xbe").unwrap();
        for (offset, byte) in damage {
            // Iterations are left alone: a large number is right and takes its time.
            if !((164..168).contains(&offset) || offset >= 208 && ((offset - 208) % 48) / 4 == 1) {
                image[start + offset] = byte;
            }
        }
        let mut storage = MemoryStorage { devices: vec![image, vec![0; 1 << 16]] };
        let before = storage.devices.clone();
        if commit(&mut storage, &[QCOW2, RAW], SECRET).is_err() {
            prop_assert!(storage.devices == before);
        }
    }
}

#[test]
fn a_stored_image_opens_with_its_passphrase_only() {
    let devices = vec![encrypted_image(), vec![0x11; 1 << 16]];
    let mut storage = MemoryStorage { devices: devices.clone() };
    let wrong = commit(&mut storage, &[QCOW2, RAW], b"open sesame ").unwrap_err();
    assert_eq!(wrong, "Invalid password, cannot unlock any keyslot");
    assert!(storage.devices == devices);
    commit(&mut storage, &[QCOW2, RAW], PASSPHRASE).unwrap();
    let mut expected = vec![0x11; 1 << 16];
    expected[8 << 10..14 << 10].fill(0x5a);
    expected[14 << 10..16 << 10].fill(0);
    assert!(storage.devices[1] == expected);
}

#[test]
fn a_header_longer_than_its_place_is_refused() {
    let shape = Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 16,
        has_backing: true,
    };
    let image = encrypted(overlay(&shape, &[]), &KEYS[0]);
    let extension = image.windows(4).position(|bytes| bytes == b"\x05\x37\xbe\x77").expect("a pointer");
    for length_bytes in [0_u64, 1, 591] {
        let mut image = image.clone();
        image[extension + 16..extension + 24].copy_from_slice(&length_bytes.to_be_bytes());
        let mut storage = MemoryStorage { devices: vec![image, vec![0; 1 << 16]] };
        assert_eq!(
            commit(&mut storage, &[QCOW2, RAW], SECRET).unwrap_err(),
            "Request for data outside of extension header",
            "{length_bytes}"
        );
    }
}

#[test]
fn more_hashing_than_anybody_waits_for_is_refused() {
    let shape = Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 1 << 16,
        has_backing: true,
    };
    let mut image = encrypted(overlay(&shape, &[]), &KEYS[0]);
    let start = image.windows(6).position(|bytes| bytes == b"LUKS\xba\xbe").unwrap();
    image[start + 212..start + 216].fill(0xff);
    let mut storage = MemoryStorage { devices: vec![image, vec![0; 1 << 16]] };
    assert_eq!(
        commit(&mut storage, &[QCOW2, RAW], SECRET).unwrap_err(),
        "Its key slots ask for 4294967296 rounds of hashing; no more than 1073741824 are done"
    );
}
