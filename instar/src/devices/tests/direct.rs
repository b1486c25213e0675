//! Files that are written past the page cache hold the same bytes as files that are not.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use instar_abi::block::CopyRecord;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::{Backend, Flushing};
use super::super::chain::Span;
use super::super::executor::{Executor, Kept};
use super::super::request::{Action, Answer, Range, Request};
use super::super::throttle::Throttle;
use super::{ANSWER, DATA, contents, direct, file, pattern, ram, read_bytes};
use crate::vm::DmaMemory;

fn request(action: Action) -> Request {
    Request { head: 0, action, answer: Answer::Completion(GuestAddress(ANSWER)), writable_bytes: 16 }
}

/// One change to file 1; file 0 is only read.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, length: usize },
    Copy { target: u64, source: u64, length: u64, within: bool },
    Zero { offset: u64, length: u64, may_unmap: bool },
    Resize(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let near_blocks = || prop_oneof![0u64..40_000, (0u64..10).prop_map(|block| block * 4096)];
    prop_oneof![
        (near_blocks(), 1usize..20_000).prop_map(|(offset, length)| Change::Write { offset, length }),
        (near_blocks(), near_blocks(), 1u64..30_000, any::<bool>())
            .prop_map(|(target, source, length, within)| Change::Copy { target, source, length, within }),
        (near_blocks(), 1u64..20_000, any::<bool>()).prop_map(|(offset, length, may_unmap)| Change::Zero {
            offset,
            length,
            may_unmap
        }),
        near_blocks().prop_map(Change::Resize),
    ]
}

fn action(change: &Change) -> Action {
    match *change {
        Change::Write { offset, length } => {
            Action::Write { offset, spans: vec![Span { address: GuestAddress(DATA + 3), length }], exact: false }
        }
        Change::Copy { target, source, length, within } => Action::Copy(vec![CopyRecord {
            target_offset_bytes: target,
            source_offset_bytes: source,
            length_bytes: length,
            source_device: u32::from(within),
            reserved: 0,
        }]),
        Change::Zero { offset, length, may_unmap } => {
            Action::WriteZeroes { ranges: vec![Range { offset, length, may_unmap }], exact: false }
        }
        Change::Resize(length) => Action::Resize(length),
    }
}

/// What carries out requests of device 1.
fn on_device_1<'a>(backends: &'a [Backend<'a>], memory: &'a DmaMemory, kept: &'a Kept) -> Executor<'a> {
    Executor { backends, own: 1, memory, throttle: None, codec_machines: None, kept }
}

fn apply(backends: &[Backend<'_>], actions: &[Change]) -> Vec<i32> {
    let ram = ram();
    ram.dma().write_slice(&pattern(20_003, 77), GuestAddress(DATA)).expect("in memory");
    let requests: Vec<Request> = actions.iter().map(|change| request(action(change))).collect();
    let kept = Kept::default();
    let executor = on_device_1(backends, ram.dma(), &kept);
    // One after the other: in one batch, changes to the same bytes may come in any order.
    requests.chunks(1).flat_map(|one| executor.execute(one, &mut |_| ())).map(|outcome| outcome.errno).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_page_cache_makes_no_difference(
        changes in proptest::collection::vec(change(), 1..12),
        lengths in (0usize..30_000, 0usize..30_000),
    ) {
        let (source, plain, past) = (file(&pattern(lengths.0, 1)), file(&pattern(lengths.1, 9)), file(&pattern(lengths.1, 9)));
        let (Some(direct_source), Some(direct_past)) = (direct(&source), direct(&past)) else { return Ok(()) };
        let backend = |file, direct, writable| Backend::new(file, writable).expect("a file").past_the_cache(direct);
        let expected = apply(&[backend(&source, None, false), backend(&plain, None, true)], &changes);
        let backends = [backend(&source, Some(&direct_source), false), backend(&past, Some(&direct_past), true)];
        prop_assert_eq!(apply(&backends, &changes), expected);
        prop_assert_eq!(contents(&past), contents(&plain));
        let (ram, wanted) = (ram(), contents(&plain));
        let read = Action::Read { offset: 5, spans: vec![Span { address: GuestAddress(DATA), length: 9000 }], exact: false };
        let kept = Kept::default();
        on_device_1(&backends, ram.dma(), &kept)
            .execute(&[request(read)], &mut |_| ());
        let shown: Vec<u8> = wanted.into_iter().skip(5).chain(std::iter::repeat(0)).take(9000).collect();
        prop_assert_eq!(read_bytes(ram.dma(), DATA, 9000), shown);
    }
}

/// Has device 1 copy a list; gives the error number of that, and how many bytes were counted.
fn copy(backends: &[Backend<'_>], records: Vec<CopyRecord>) -> (i32, u64) {
    let (ram, kept) = (ram(), Kept::default());
    let executor = on_device_1(backends, ram.dma(), &kept);
    let outcomes = executor.execute(&[request(Action::Copy(records))], &mut |_| ());
    (outcomes[0].errno, kept.copied_bytes.into_inner())
}

/// Where a piece comes from and how long it is: often on whole pages, which need no copying on their way.
fn piece() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0u64..900_000, 1u64..400_000),
        (0u64..220, 1u64..100).prop_map(|(page, pages)| (page * 4096, pages * 4096)),
        (0u64..220, 1u64..400_000).prop_map(|(page, length)| (page * 4096, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn long_runs_past_the_page_cache_hold_the_same_bytes(
        start in prop_oneof![Just(0u64), Just(4096), Just(512), 0u64..10_000],
        before in 0usize..20_000,
        pieces in proptest::collection::vec(piece(), 3..16),
    ) {
        let source = file(&pattern(1_000_000, 1));
        let mut target_offset = start;
        let records: Vec<CopyRecord> = pieces.iter().map(|&(source_offset, length)| {
            let record = CopyRecord {
                target_offset_bytes: target_offset,
                source_offset_bytes: source_offset,
                length_bytes: length,
                source_device: 0,
                reserved: 0,
            };
            target_offset += length;
            record
        }).collect();
        let copied = |target: &File, bulk: Option<&File>| {
            let source = Backend::new(&source, false).expect("a file");
            let backends = [source, Backend::new(target, true).expect("a file").bulk(bulk)];
            let (errno, _) = copy(&backends, records.clone());
            assert_eq!((errno, backends[1].length_bytes()), (0, contents(target).len() as u64));
            contents(target)
        };
        let (plain, past) = (file(&pattern(before, 9)), file(&pattern(before, 9)));
        let Some(bulk) = direct(&past) else { return Ok(()) };
        prop_assert!(copied(&past, Some(&bulk)) == copied(&plain, None));
    }
}

#[test]
fn pages_pass_where_no_file_can_be_written_past_the_cache() {
    // A file that is opened in the usual way does what it is asked to, one for appending takes no pages, as some file systems
    // take none past the cache, and a read-only one takes nothing.
    let copied = |bulk: &File, target: &File| {
        let source = file(&pattern(3 << 20, 1));
        let backends = [
            Backend::new(&source, false).expect("a file"),
            Backend::new(target, true).expect("a file").bulk(Some(bulk)),
        ];
        let record = |source_offset_bytes, target_offset_bytes, length_bytes| CopyRecord {
            target_offset_bytes,
            source_offset_bytes,
            length_bytes,
            source_device: 0,
            reserved: 0,
        };
        let records =
            vec![record(8192, 0, 4096), record(0, 4096, (2 << 20) + 100), record(1 << 20, (2 << 20) + 4196, 5)];
        copy(&backends, records).0
    };
    let bytes = pattern(3 << 20, 1);
    let expected = [&bytes[8192..12288], &bytes[..(2 << 20) + 100], &bytes[1 << 20..][..5]].concat();
    for flags in [0, libc::O_APPEND] {
        let target = file(b"");
        let path = format!("/proc/self/fd/{}", target.as_raw_fd());
        let bulk = OpenOptions::new().write(true).custom_flags(flags).open(path).expect("opens");
        assert_eq!(copied(&bulk, &target), 0);
        assert!(contents(&target) == expected, "{flags:#x}");
    }
    let (target, read_only) = (file(b""), File::open("/proc/self/exe").expect("opens"));
    assert_eq!(copied(&read_only, &target), libc::EBADF);
}

#[test]
fn neighbours_in_one_block_do_not_undo_each_other() {
    let (source, past) = (file(&pattern(1 << 20, 1)), file(&vec![0; 1 << 20]));
    let (Some(direct_source), Some(direct_past)) = (direct(&source), direct(&past)) else { return };
    let backends = [
        Backend::new(&source, false).expect("a file").past_the_cache(Some(&direct_source)),
        Backend::new(&past, true).expect("a file").past_the_cache(Some(&direct_past)),
    ];
    // Pieces of 512 bytes from the end to the beginning, so that none can be joined, and enough of them for two workers.
    let offsets = (0..2048u64).rev().map(|index| index * 512);
    let records = offsets.map(|offset| CopyRecord {
        target_offset_bytes: offset,
        source_offset_bytes: offset,
        length_bytes: 512,
        source_device: 0,
        reserved: 0,
    });
    assert_eq!(copy(&backends, records.collect()), (0, 1 << 20));
    assert!(contents(&past) == pattern(1 << 20, 1));
}

#[test]
fn a_limit_holds_for_copies_and_writes_of_all_workers_together() {
    let (source, target) = (file(&pattern(8 << 20, 1)), file(b""));
    let backends = [Backend::new(&source, false).expect("a file"), Backend::new(&target, true).expect("a file")];
    let record = CopyRecord {
        target_offset_bytes: 0,
        source_offset_bytes: 0,
        length_bytes: 8 << 20,
        source_device: 0,
        reserved: 0,
    };
    let (ram, kept) = (ram(), Kept::default());
    ram.dma().write_slice(&pattern(20_000, 7), GuestAddress(DATA)).expect("in memory");
    let start = Instant::now();
    let throttle = Throttle::new(8 << 20);
    let executor = Executor {
        backends: &backends,
        own: 1,
        memory: ram.dma(),
        throttle: throttle.as_ref(),
        codec_machines: None,
        kept: &kept,
    };
    let write = Action::Write {
        offset: 9 << 20,
        spans: vec![Span { address: GuestAddress(DATA), length: 20_000 }],
        exact: false,
    };
    let mut told = Vec::new();
    executor.execute(&[request(Action::Copy(vec![record])), request(write)], &mut |copied| told.push(copied));
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(told.len() > 10 && told.is_sorted() && told[told.len() - 1] == 8 << 20, "{} reports", told.len());
}

#[test]
fn flushes_that_are_not_passed_on_are_no_errors() {
    let target = file(b"x");
    for flushing in [Flushing::OnRequest, Flushing::AfterEachBatch, Flushing::Never] {
        let backends = [Backend::new(&target, true).expect("a file").flushing(flushing)];
        let (ram, kept) = (ram(), Kept::default());
        let executor = Executor {
            backends: &backends,
            own: 0,
            memory: ram.dma(),
            throttle: None,
            codec_machines: None,
            kept: &kept,
        };
        let outcomes = executor.execute(&[request(Action::Resize(9)), request(Action::Flush)], &mut |_| ());
        assert_eq!((outcomes[0].errno, outcomes[1].errno), (0, 0));
    }
}
