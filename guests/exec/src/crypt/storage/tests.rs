//! Encrypted devices and plain ones with the same bytes: whatever is done to both, both show the same.

use super::*;
use crate::memory::MemoryStorage;
use instar_formats::luks::Cipher;
use proptest::prelude::*;

/// Where the data of the two encrypted devices begins.
const STARTS: [u64; 2] = [1024, 4096];
const LENGTH_BYTES: usize = 8 * SECTOR;

fn cipher(key: u8) -> SectorCipher {
    let cipher =
        Cipher { algorithm: "aes-128".to_owned(), mode: "xts", iv_generator: "plain64", iv_hash: Some("sha256") };
    SectorCipher::new(&cipher, &(key..key + 32).collect::<Vec<_>>()).unwrap()
}

/// Two encrypted devices and one that is not, all with the same plain bytes.
fn devices(plain: &[u8]) -> MemoryStorage {
    let encrypted = |start: u64, key: u8| {
        let mut bytes = vec![0xee; start as usize];
        let mut data = plain.to_vec();
        cipher(key).encrypt(0, &mut data);
        bytes.extend(data);
        bytes
    };
    MemoryStorage { devices: vec![encrypted(STARTS[0], 1), encrypted(STARTS[1], 2), plain.to_vec()] }
}

fn unlocked(storage: &mut MemoryStorage) -> Unlocked<'_> {
    let view = |index: usize| View { cipher: cipher(index as u8 + 1), start_bytes: STARTS[index] };
    Unlocked::new(storage, BTreeMap::from([(DeviceId(0), view(0)), (DeviceId(1), view(1))]))
}

/// The number of a device as what it stands for.
fn shown(index: usize) -> DeviceId {
    let device = DeviceId(index as u32);
    if index < STARTS.len() { device.plain() } else { device }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Zero,
    CopyFrom(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Write),
        Just(Step::Zero),
        (0..3usize, 0..LENGTH_BYTES as u64 / 2).prop_map(|(source, offset)| Step::CopyFrom(source, offset)),
    ]
}

proptest! {
    #[test]
    fn it_is_as_if_nothing_were_encrypted(
        steps in proptest::collection::vec((0..3usize, 0..LENGTH_BYTES / 2, 1..LENGTH_BYTES / 2, step()), 1..12),
        looks in proptest::collection::vec((0..3usize, 0..LENGTH_BYTES / 2, 1..LENGTH_BYTES / 2), 1..6),
    ) {
        let start: Vec<u8> = (0..LENGTH_BYTES).map(|at| (at % 251) as u8).collect();
        let mut files = devices(&start);
        let mut model = MemoryStorage { devices: vec![start; 3] };
        let mut storage = unlocked(&mut files);
        for (index, offset, length, step) in steps {
            let target = DeviceId(index as u32);
            let (offset, length_bytes) = (offset as u64, length as u64);
            match step {
                Step::Write(byte) => {
                    let bytes: Vec<u8> = (0..length).map(|at| byte.wrapping_add(at as u8)).collect();
                    storage.write(shown(index), offset, &bytes).unwrap();
                    model.write(target, offset, &bytes).unwrap();
                }
                Step::Zero => {
                    storage.write_zeroes(shown(index), offset, length_bytes, false).unwrap();
                    model.write_zeroes(target, offset, length_bytes, false).unwrap();
                }
                // From another device, or from a place of this one that the target does not touch.
                Step::CopyFrom(source, from) if source != index => {
                    let segment = |source, skipped| CopySegment {
                        target_offset: offset + skipped,
                        source,
                        source_offset: from + skipped,
                        length_bytes: length_bytes - skipped,
                    };
                    // In two segments that follow each other, and one of another device behind them.
                    let half = length_bytes / 2;
                    let first = CopySegment { length_bytes: half, ..segment(shown(source), 0) };
                    storage.copy(shown(index), &[first, segment(shown(source), half)]).unwrap();
                    model.copy(target, &[segment(DeviceId(source as u32), 0)]).unwrap();
                }
                Step::CopyFrom(..) => {}
            }
        }
        for (index, offset, length) in looks {
            let (mut read, mut wanted) = ([vec![0; length], vec![0; 3]], [vec![0; length], vec![0; 3]]);
            let [first, second] = &mut read;
            storage.read_many(shown(index), &mut [(offset as u64, first), (7, second)]).unwrap();
            let [first, second] = &mut wanted;
            model.read_many(DeviceId(index as u32), &mut [(offset as u64, first), (7, second)]).unwrap();
            prop_assert_eq!(read, wanted);
            let unit = CompareSegment {
                offset: offset as u64, other: None, other_offset: 3, length_bytes: length as u64, unit_bytes: 512,
            };
            for other in 0..3 {
                let (mut found, mut wanted) = (Vec::new(), Vec::new());
                let with = |other| CompareSegment { other: Some(other), ..unit };
                storage.compare(shown(index), &[with(shown(other)), unit], &mut found).unwrap();
                model.compare(DeviceId(index as u32), &[with(DeviceId(other as u32)), unit], &mut wanted).unwrap();
                prop_assert_eq!(found, wanted);
            }
        }
        for index in 0..3 {
            let length = storage.length_bytes(shown(index));
            prop_assert_eq!(length, LENGTH_BYTES as u64);
            let mut bytes = vec![0; LENGTH_BYTES];
            storage.read(shown(index), 0, &mut bytes).unwrap();
            prop_assert_eq!(&bytes, &model.devices[index]);
        }
        for (bytes, start) in files.devices.iter().zip(STARTS) {
            prop_assert!(bytes[..start as usize].iter().all(|byte| *byte == 0xee));
        }
    }
}

#[test]
fn more_than_a_piece_is_copied_written_and_zeroed() {
    let plain: Vec<u8> = (0..PIECE_BYTES + 3 * SECTOR).map(|at| (at / 3 % 251) as u8).collect();
    let mut files = devices(&plain);
    let mut storage = unlocked(&mut files);
    let length_bytes = plain.len() as u64 - 100;
    storage.write_zeroes(shown(0), 0, plain.len() as u64, false).unwrap();
    let mut bytes = vec![1; plain.len()];
    storage.read(shown(0), 0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    let whole = CopySegment { target_offset: 50, source: shown(1), source_offset: 100, length_bytes };
    storage.copy(shown(0), &[whole]).unwrap();
    storage.read(shown(0), 0, &mut bytes).unwrap();
    assert_eq!(bytes[50..plain.len() - 50], plain[100..]);
    storage.write(shown(0), 0, &plain).unwrap();
    storage.read(shown(0), 0, &mut bytes).unwrap();
    assert_eq!(bytes, plain);
}

#[test]
fn a_piece_ends_in_the_middle_of_a_segment() {
    let plain: Vec<u8> = (0..PIECE_BYTES + 8 * SECTOR).map(|at| (at / 5 % 253) as u8).collect();
    let mut files = devices(&plain);
    let mut storage = unlocked(&mut files);
    // The first fills a part of the piece, the second ends one and begins the next.
    let lengths = [3 * SECTOR as u64 + 7, PIECE_BYTES as u64 - 20];
    let segments = [
        CopySegment { target_offset: 11, source: shown(1), source_offset: 5, length_bytes: lengths[0] },
        CopySegment { target_offset: 11 + lengths[0], source: shown(1), source_offset: 900, length_bytes: lengths[1] },
    ];
    storage.copy(shown(0), &segments).unwrap();
    let mut bytes = vec![0; plain.len()];
    storage.read(shown(0), 0, &mut bytes).unwrap();
    let (middle, end) = (11 + lengths[0] as usize, 11 + (lengths[0] + lengths[1]) as usize);
    assert!(bytes[11..middle] == plain[5..5 + lengths[0] as usize]);
    assert!(bytes[middle..end] == plain[900..900 + lengths[1] as usize]);
    assert!(bytes[..11] == plain[..11] && bytes[end..] == plain[end..]);
}

#[test]
fn a_device_without_a_key_and_places_that_no_file_has_are_errors() {
    let mut files = devices(&[0; LENGTH_BYTES]);
    let mut storage = unlocked(&mut files);
    let errno = |result: Result<(), StorageError>| result.unwrap_err().errno;
    assert_eq!(errno(storage.read(DeviceId(2).plain(), 0, &mut [0; 512])), ENOKEY);
    assert_eq!(errno(storage.discard(shown(0), u64::MAX - 100, 50)), 27);
}
