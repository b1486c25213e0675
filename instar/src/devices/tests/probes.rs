//! Looking at blocks past the page cache: what rings read and what they refuse, and that comparing finds the same with and without.
#![expect(unsafe_code, reason = "requests that no honest program makes have no safe interface")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use instar_abi::block::verdict;
use io_uring::squeue::Flags;
use io_uring::{opcode, types};
use proptest::prelude::*;
use rustix::fs::Advice;

use super::super::backend::Backend;
use super::super::compare::Comparer;
use super::super::ring::{BLOCK_BYTES, BLOCKS, Lent, Rings};
use super::{direct, file};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A file of so many bytes, of which block `n` is filled with the byte `n + start`.
fn numbered(start: u8, length: usize) -> File {
    let blocks = (0..=250).flat_map(|block| [start.wrapping_add(block); BLOCK_BYTES]);
    file(&blocks.take(length).collect::<Vec<u8>>())
}

/// Rings for some files, unless there are none here: then the test says so and has nothing to look at.
fn rings(files: usize) -> Option<Arc<Rings>> {
    let rings = Arc::new(Rings::new(files));
    let has_some = rings.lend().is_some();
    if !has_some {
        eprintln!("not run, the system gives no rings (io_uring) here");
    }
    has_some.then_some(rings)
}

fn first_bytes(ring: &mut Lent, count: usize) -> Vec<Option<u8>> {
    (0..count).map(|index| ring.block(index).map(|block| block[0])).collect()
}

#[test]
fn blocks_come_from_where_they_were_asked_for() {
    let (one, other) = (numbered(1, 200 * BLOCK_BYTES), numbered(100, 3 * BLOCK_BYTES + 100));
    let Some((one, other)) = direct(&one).zip(direct(&other)) else { return };
    let Some(mut ring) = rings(2).and_then(|rings| rings.lend()) else { return };
    let offsets: Vec<u64> = (0..150).map(|block| (block * 7 % 200) * BLOCK).collect();
    ring.read(&one, &offsets);
    for (index, offset) in offsets.iter().enumerate().take(BLOCKS) {
        let byte = u8::try_from(offset / BLOCK + 1).expect("a byte");
        assert_eq!(ring.block(index), Some([byte; BLOCK_BYTES].as_slice()), "{index}");
    }
    assert!(!ring.has(BLOCKS) && ring.block(BLOCKS).is_none());
    // The last block is not whole, and behind it there is none.
    ring.read(&other, &[2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 0]);
    assert_eq!(first_bytes(&mut ring, 5), [Some(102), None, None, Some(100), None]);
    ring.read(&one, &[BLOCK]);
    assert_eq!(first_bytes(&mut ring, 2), [Some(2), None]);
}

#[test]
fn a_ring_can_do_nothing_else() {
    let Some(one) = direct(&numbered(1, BLOCK_BYTES)) else { return };
    let Some(mut ring) = rings(1).and_then(|rings| rings.lend()) else { return };
    let requests = ring.requests().expect("a ring");
    let (fixed, number) = (types::Fixed(0), types::Fd(one.as_raw_fd()));
    let mut byte = [0];
    let forbidden = [
        opcode::Read::new(number, byte.as_mut_ptr(), 1).build(),
        opcode::ReadFixed::new(fixed, byte.as_mut_ptr(), 1, 0).build(),
        opcode::ReadFixed::new(number, byte.as_mut_ptr(), 1, 0).build().flags(Flags::ASYNC),
        opcode::Write::new(number, byte.as_ptr(), 1).build(),
        opcode::WriteFixed::new(number, byte.as_ptr(), 1, 0).build(),
        opcode::Fsync::new(number).build(),
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
        opcode::Nop::new().build(),
    ];
    for request in &forbidden {
        // SAFETY: it is waited for, and what it names lives longer.
        unsafe { requests.submission().push(request) }.expect("room");
        requests.submit_and_wait(1).expect("an answer");
        let answers: Vec<i32> = requests.completion().map(|done| done.result()).collect();
        assert_eq!(answers, [-libc::EACCES], "{request:?}");
    }
    // To memory that is not its own it reads nothing.
    let elsewhere = opcode::ReadFixed::new(number, byte.as_mut_ptr(), 1, 0).build();
    // SAFETY: as above.
    unsafe { requests.submission().push(&elsewhere) }.expect("room");
    requests.submit_and_wait(1).expect("an answer");
    assert_eq!(requests.completion().map(|done| done.result()).collect::<Vec<i32>>(), [-libc::EFAULT]);
    let more = requests.submitter().register_files(&[one.as_raw_fd()]);
    assert_eq!(more.map_err(|error| error.raw_os_error()), Err(Some(libc::EACCES)));
}

#[test]
fn rings_come_back_unless_they_have_failed() {
    let Some(one) = direct(&numbered(1, BLOCK_BYTES)) else { return };
    let Some(rings) = rings(1) else { return };
    let lend_all = || std::iter::from_fn(|| rings.lend()).take(9).collect::<Vec<_>>();
    let count = lend_all().len();
    let mut all = lend_all();
    assert!((1..9).contains(&count) && all.len() == count);
    let broken = all[0].requests().expect("a ring").as_raw_fd();
    // SAFETY: the number stays a descriptor of this process, which closes it with the ring.
    assert_eq!(unsafe { libc::dup2(one.as_raw_fd(), broken) }, broken);
    all[0].read(&one, &[0]);
    assert!(!all[0].has(0) && all[0].block(0).is_none());
    all[0].read(&one, &[0]);
    drop(all);
    assert_eq!(lend_all().len(), count - 1);
}

#[test]
fn what_the_cache_has_nothing_of_does_not_get_there() {
    const UNIT: usize = 64 << 10;
    const UNITS: usize = 64;
    let units: Vec<u8> = (0..UNITS).flat_map(|_| [7; UNIT]).collect();
    let data = file(&units);
    data.sync_all().expect("durable");
    rustix::fs::fadvise(&data, 0, None, Advice::DontNeed).expect("advised");
    let Some(direct) = direct(&data) else { return };
    let Some(rings) = rings(1) else { return };
    let backend = super::backend(&data, false).probed_through(Some(&direct), &rings);
    let places = [UNITS / 2, UNITS - 1].map(|unit| (unit * UNIT) as u64);
    if places.iter().any(|place| backend.is_cached(*place)) {
        eprintln!("not run, the file system keeps everything in the page cache");
        return;
    }
    // Asking had the system read ahead there; what lies between is looked at.
    let places = [UNITS / 4, UNITS / 4 * 3].map(|unit| (unit * UNIT) as u64);
    let differed = AtomicBool::new(true);
    let mut comparer = Comparer::new(&differed);
    let found = comparer.compare((&backend, 0), None, units.len() as u64, UNIT as u64).expect("compared");
    assert_eq!(found, [verdict::DIFFERS; UNITS]);
    assert!(places.iter().all(|place| !backend.is_cached(*place)));
}

/// What a unit is like.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Zeros,
    DataFirst,
    DataLast,
}

fn units() -> impl Strategy<Value = Vec<Unit>> {
    let unit = prop_oneof![1 => Just(Unit::Zeros), 6 => Just(Unit::DataFirst), 1 => Just(Unit::DataLast)];
    prop::collection::vec(unit, 1..160)
}

fn bytes_of(units: &[Unit], unit_bytes: usize, skip: usize, cut: usize) -> Vec<u8> {
    let mut bytes = vec![9; skip];
    for (unit, number) in units.iter().zip((1..=250).cycle()) {
        let start = bytes.len();
        bytes.resize(start + unit_bytes, 0);
        match unit {
            Unit::Zeros => {}
            Unit::DataFirst => bytes[start] = number,
            Unit::DataLast => bytes[start + unit_bytes - 1] = number,
        }
    }
    bytes.truncate(bytes.len().saturating_sub(cut).max(skip));
    bytes
}

/// The verdict that anybody can see, of two units.
fn seen(own: &[u8], other: &[u8]) -> u8 {
    let at = |bytes: &[u8], index| bytes.get(index).copied().unwrap_or(0);
    match (0..own.len().max(other.len())).all(|index| at(own, index) == at(other, index)) {
        true => verdict::EQUAL,
        false if own.iter().all(|byte| *byte == 0) => verdict::DIFFERS_FROM_ZEROS,
        false => verdict::DIFFERS,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn comparing_finds_the_same_through_rings(
        own in units(),
        other in prop::option::of(units()),
        unit_bytes in prop_oneof![Just(512_usize), Just(4096), Just(8192), Just(65536), Just(12288), Just(5000)],
        skips in prop_oneof![Just((0_usize, 0_usize)), Just((4096, 8192)), Just((100, 0))],
        cuts in (0_usize..9000, 0_usize..9000),
        is_cold: bool,
        differed: bool,
    ) {
        let length = own.len() * unit_bytes;
        let own = bytes_of(&own, unit_bytes, skips.0, cuts.0);
        let other = other.map(|units| bytes_of(&units, unit_bytes, skips.1, cuts.1));
        let unit = |bytes: &[u8], skip, index: usize| {
            let bytes = &bytes[skip..];
            bytes[(index * unit_bytes).min(bytes.len())..((index + 1) * unit_bytes).min(bytes.len())].to_vec()
        };
        let expected: Vec<u8> = (0..length / unit_bytes)
            .map(|index| {
                let other = other.as_ref().map_or(Vec::new(), |other| unit(other, skips.1, index));
                seen(&unit(&own, skips.0, index), &other)
            })
            .collect();
        let files: Vec<File> = [Some(&own), other.as_ref()].into_iter().flatten().map(|bytes| file(bytes)).collect();
        for file in files.iter().filter(|_| is_cold) {
            file.sync_all().expect("durable");
            rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("advised");
        }
        let direct: Vec<File> = files.iter().filter_map(direct).collect();
        let rings = Arc::new(Rings::new(direct.len()));
        let direct = direct.iter().map(Some).chain([None, None]);
        let backends: Vec<Backend<'_>> =
            files.iter().zip(direct).map(|(file, direct)| super::backend(file, false).probed_through(direct, &rings)).collect();
        let differed = AtomicBool::new(differed);
        let mut comparer = Comparer::new(&differed);
        let places: Vec<_> = backends.iter().zip([skips.0 as u64, skips.1 as u64]).collect();
        // Twice, as what is known of the cache and of the last units stays.
        for _ in 0..2 {
            let (length, unit_bytes) = (length as u64, unit_bytes as u64);
            let found = comparer.compare(places[0], places.get(1).copied(), length, unit_bytes).expect("compared");
            prop_assert_eq!(found, expected.as_slice());
        }
    }
}
