//! Attacks made of requests of good form that must be refused. Device 0 is read-only, device 1 writable.

use instar_exec::{CopySegment, DeviceId, Storage, StorageError};

const READ_ONLY: DeviceId = DeviceId(0);
const WRITABLE: DeviceId = DeviceId(1);
const FAR: u64 = i64::MAX as u64;

fn segment(target_offset: u64, source: u32, source_offset: u64, length_bytes: u64) -> [CopySegment; 1] {
    [CopySegment { target_offset, source: DeviceId(source), source_offset, length_bytes }]
}

/// Carries out the attack; it is over if this returns.
pub(crate) fn attack(number: u32, storage: &mut dyn Storage) {
    let result = queue(number, storage).and_then(|()| storage.settle());
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn queue(number: u32, storage: &mut dyn Storage) -> Result<(), StorageError> {
    match number {
        0 => storage.write(READ_ONLY, 0, b"overwritten"),
        1 => storage.write_zeroes(READ_ONLY, 0, 4096, true),
        2 => storage.write_zeroes(READ_ONLY, 0, 4096, false),
        3 => storage.discard(READ_ONLY, 0, 4096),
        4 => storage.resize(READ_ONLY, 0),
        5 => storage.copy(READ_ONLY, &segment(0, 1, 0, 4096)),
        6 => storage.copy(WRITABLE, &segment(0, 2, 0, 4096)),
        7 => storage.copy(WRITABLE, &segment(0, u32::MAX, 0, 4096)),
        8 => storage.copy(WRITABLE, &segment(FAR - 100, 0, 0, 4096)),
        9 => storage.copy(WRITABLE, &segment(0, 0, FAR - 100, 4096)),
        10 => storage.copy(WRITABLE, &segment(0, 1, 100, 4096)),
        11 => storage.write(WRITABLE, FAR, b"far"),
        12 => storage.write_zeroes(WRITABLE, FAR, 4096, true),
        13 => storage.resize(WRITABLE, u64::MAX),
        14 => storage.read(READ_ONLY, FAR, &mut [0; 16]),
        15 => storage.read(DeviceId(2), 0, &mut [0; 16]),
        _ => panic!("no such attack"),
    }
}
