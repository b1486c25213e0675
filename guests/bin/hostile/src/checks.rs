//! No attacks: what honest programs rely on, checked where it runs. A failed check panics.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use instar_exec::{CopySegment, DeviceId, Storage};

const SOURCE: DeviceId = DeviceId(0);
const TARGET: DeviceId = DeviceId(1);

/// Carries out a check.
pub(crate) fn check(number: u32, storage: &mut dyn Storage) {
    match number {
        0 => memory_functions(),
        1 => heap(),
        _ => devices(storage),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn memory_functions() {
    for length in [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 100, 4096, 70_001] {
        let source = pattern(length + 64);
        for distance in [0, 1, 7, 8, 9, 16, 33] {
            let mut moved = source.clone();
            black_box(&mut moved).copy_within(..length, distance);
            assert!((0..length).all(|at| moved[at + distance] == source[at]), "moving {length} up by {distance}");
            let mut moved = source.clone();
            black_box(&mut moved).copy_within(distance..distance + length, 0);
            assert!((0..length).all(|at| moved[at] == source[at + distance]), "moving {length} down by {distance}");
        }
        let mut filled = source.clone();
        black_box(&mut filled[..length]).fill(0x5a);
        assert!(filled[..length].iter().all(|byte| *byte == 0x5a) && filled[length..] == source[length..]);
        let mut other = source.clone();
        assert!(black_box(&other[..length]) == black_box(&source[..length]));
        for at in [0, length / 2, length.saturating_sub(1)] {
            if at < length {
                other[at] ^= 0x80;
                assert!(black_box(&other[..length]) != black_box(&source[..length]), "{length} differ at {at}");
                let order = black_box(&other[..length]).cmp(black_box(&source[..length]));
                assert!(order == other[at].cmp(&source[at]), "order of {length} at {at}");
                other[at] ^= 0x80;
            }
        }
    }
}

fn heap() {
    // Far more than the memory in total: what is freed must be usable again, and blocks must not overlap.
    let mut blocks: Vec<Vec<u8>> = (0..64).map(|_| Vec::new()).collect();
    let mut state = 1u32;
    for round in 0..20_000u32 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let place = (state >> 8) as usize % blocks.len();
        let length = (state >> 12) as usize % 200_000;
        let seed = place as u8;
        assert!(blocks[place].iter().step_by(997).all(|byte| *byte == seed), "round {round}: a block was overwritten");
        blocks[place] = vec![seed; length];
    }
}

fn devices(storage: &mut dyn Storage) {
    let length = storage.length_bytes(SOURCE);
    let size = usize::try_from(length).expect("a short file");
    let mut source = vec![0; size];
    storage.read(SOURCE, 0, &mut source).expect("read");
    let mut on_stack = [1; 100];
    storage.read(SOURCE, length - 50, &mut on_stack).expect("read");
    assert!(on_stack[..50] == source[size - 50..] && on_stack[50..] == [0; 50]);

    storage.resize(TARGET, 0).expect("resize");
    let segment = |target_offset, source_offset, length_bytes| CopySegment {
        target_offset,
        source: SOURCE,
        source_offset,
        length_bytes,
    };
    storage.copy(TARGET, &[segment(length, 0, length), segment(0, length / 2, length - length / 2)]).expect("copy");
    for (at, chunk) in (0..).zip(source.chunks(10)) {
        storage.write(TARGET, 2 * length + at * 10, chunk).expect("write");
    }
    storage.write_zeroes(TARGET, 100, 100, true).expect("zero");
    storage.flush(TARGET).expect("flush");
    storage.progress(length, 3 * length);
    assert!(storage.length_bytes(TARGET) == 3 * length);
    let mut target = vec![0; 3 * size];
    storage.read(TARGET, 0, &mut target).expect("read");
    assert!(target[size..2 * size] == source && target[2 * size..] == source);
    assert!(target[..100] == source[size / 2..size / 2 + 100] && target[100..200] == [0; 100]);
}
