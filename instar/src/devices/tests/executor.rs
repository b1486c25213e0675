//! What requests do to files.

use std::os::unix::fs::FileExt;

use instar_abi::block::{CompareRecord, CopyRecord, ZEROS, status};
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::Backend;
use super::super::chain::Span;
use super::super::executor::{Executor, Kept, Outcome};
use super::super::request::{Action, Answer, Range, Request};
use super::{ANSWER, DATA, backend, contents, file, pattern, ram, read_bytes};
use crate::vm::DmaMemory;

fn request(action: Action) -> Request {
    Request { head: 0, action, answer: Answer::Completion(GuestAddress(ANSWER)), writable_bytes: 16 }
}

fn execute(memory: &DmaMemory, backends: &[Backend<'_>], own: usize, actions: Vec<Action>) -> Vec<Outcome> {
    let requests: Vec<Request> = actions.into_iter().map(request).collect();
    let kept = Kept::default();
    Executor { backends, own, memory, throttle: None, codec_machines: None, kept: &kept }
        .execute(&requests, &mut |_| ())
}

fn errnos(outcomes: &[Outcome]) -> Vec<i32> {
    outcomes.iter().map(|outcome| outcome.errno).collect()
}

fn one(backends: &[Backend<'_>], own: usize, action: Action) -> Outcome {
    execute(ram().dma(), backends, own, vec![action])[0]
}

fn copy(target_offset_bytes: u64, source_device: u32, source_offset_bytes: u64, length_bytes: u64) -> CopyRecord {
    CopyRecord { target_offset_bytes, source_offset_bytes, length_bytes, source_device, reserved: 0 }
}

fn span(address: u64, length: usize) -> Span {
    Span { address: GuestAddress(address), length }
}

fn range(offset: u64, length: u64, may_unmap: bool) -> Range {
    Range { offset, length, may_unmap }
}

#[test]
fn reading_fills_every_span_and_zeros_behind_the_end() {
    let (ram, image) = (ram(), pattern(1000, 1));
    let file = file(&image);
    ram.dma().write_slice(&[0xee; 400], GuestAddress(DATA)).expect("in memory");
    let spans = vec![span(DATA, 100), span(DATA + 200, 200)];
    let read = Action::Read { offset: 850, spans, exact: false };
    assert_eq!(errnos(&execute(ram.dma(), &[backend(&file, false)], 0, vec![read])), [0]);
    assert_eq!(read_bytes(ram.dma(), DATA, 100), image[850..950]);
    assert_eq!(read_bytes(ram.dma(), DATA + 100, 100), [0xee; 100]);
    assert_eq!(read_bytes(ram.dma(), DATA + 200, 50), image[950..]);
    assert_eq!(read_bytes(ram.dma(), DATA + 250, 150), [0; 150]);
}

#[test]
fn writing_grows_the_file_to_the_byte() {
    let ram = ram();
    let file = file(b"start");
    ram.dma().write_slice(b"abcdef", GuestAddress(DATA)).expect("in memory");
    let backends = [backend(&file, true)];
    let write = Action::Write { offset: 8, spans: vec![span(DATA, 6)], exact: false };
    assert_eq!(errnos(&execute(ram.dma(), &backends, 0, vec![write])), [0]);
    assert_eq!(contents(&file), b"start\0\0\0abcdef");
    assert_eq!(backends[0].length_bytes(), 14);
}

#[test]
fn standard_requests_stay_inside_the_capacity() {
    let file = file(&[1; 1000]);
    let backends = [backend(&file, true)];
    let spans = vec![span(DATA, 512)];
    let errno = |action| one(&backends, 0, action).errno;
    assert_eq!(errno(Action::Read { offset: 512, spans: spans.clone(), exact: true }), 0);
    assert_eq!(errno(Action::Read { offset: 1024, spans: spans.clone(), exact: true }), libc::EINVAL);
    assert_eq!(errno(Action::Write { offset: 1024, spans, exact: true }), libc::EINVAL);
    assert_eq!(errno(Action::WriteZeroes { ranges: vec![range(512, 512, true)], exact: true }), libc::EINVAL);
    assert_eq!(contents(&file).len(), 1000);
}

#[test]
fn read_only_devices_refuse_every_change() {
    let (image, other) = (file(&pattern(5000, 1)), file(&[0; 100]));
    let backends = [backend(&image, false), backend(&other, true)];
    let changes = vec![
        Action::Write { offset: 0, spans: vec![span(DATA, 10)], exact: false },
        Action::WriteZeroes { ranges: vec![range(0, 10, true)], exact: false },
        Action::WriteZeroes { ranges: vec![range(0, 10, false)], exact: false },
        Action::Discard(vec![range(0, 4096, true)]),
        Action::Resize(0),
        Action::Copy(vec![copy(0, 1, 0, 10)]),
    ];
    assert_eq!(errnos(&execute(ram().dma(), &backends, 0, changes)), [libc::EACCES; 6]);
    assert_eq!(contents(&image), pattern(5000, 1));
    assert_eq!(one(&backends, 0, Action::Flush).errno, 0, "flushing changes nothing");
}

#[test]
fn copies_take_bytes_from_other_devices_and_zeros_behind_their_end() {
    let source_bytes = pattern(300_000, 9);
    let (target, source) = (file(&[0xee; 100]), file(&source_bytes));
    let backends = [backend(&target, true), backend(&source, false)];
    let records = vec![copy(50, 1, 0, 280_000), copy(280_050, 1, 290_000, 50_000)];
    assert_eq!(one(&backends, 0, Action::Copy(records)).errno, 0);
    let result = contents(&target);
    assert_eq!(result[..50], [0xee; 50]);
    assert_eq!(result[50..280_050], source_bytes[..280_000]);
    assert_eq!(result[280_050..290_050], source_bytes[290_000..]);
    assert_eq!(result[290_050..], [0; 40_000]);
    assert_eq!(backends[0].length_bytes(), 330_050);
}

#[test]
fn a_copy_may_stay_in_one_file_if_its_ranges_do_not_overlap() {
    let image = pattern(10_000, 2);
    let file = file(&image);
    let backends = [backend(&file, true)];
    assert_eq!(one(&backends, 0, Action::Copy(vec![copy(10_000, 0, 0, 10_000)])).errno, 0);
    assert_eq!(contents(&file)[10_000..], image);
    assert_eq!(one(&backends, 0, Action::Copy(vec![copy(10, 0, 0, 11)])).errno, libc::EINVAL);
}

#[test]
fn a_failed_record_is_named() {
    let (target, source) = (file(&[0; 100]), file(&[1; 100]));
    let backends = [backend(&target, true), backend(&source, false)];
    let outcome = one(&backends, 0, Action::Copy(vec![copy(0, 1, 0, 10), copy(10, 1, 10, 10), copy(20, 9, 0, 10)]));
    assert_eq!((outcome.status, outcome.errno, outcome.record), (status::IO_ERROR, libc::ENODEV, 2));
}

#[test]
fn many_pieces_in_parallel_all_arrive() {
    let image = pattern(64 << 20, 3);
    let (target, source) = (file(&[]), file(&image));
    let backends = [backend(&target, true), backend(&source, false)];
    let piece = 8192;
    let records: Vec<CopyRecord> = (0..4096).rev().map(|at| copy(at * piece, 1, at * piece, piece)).collect();
    let rest = copy(4096 * piece, 1, 4096 * piece, (64 << 20) - 4096 * piece);
    let actions = vec![Action::Copy(records), Action::Copy(vec![rest]), Action::Flush];
    assert_eq!(errnos(&execute(ram().dma(), &backends, 0, actions)), [0, 0, 0]);
    assert!(contents(&target) == image);
}

#[test]
fn barriers_keep_what_stands_before_and_behind_apart() {
    let file = file(&[1; 100]);
    let backends = [backend(&file, true)];
    let zero = |offset, length| Action::WriteZeroes { ranges: vec![range(offset, length, false)], exact: false };
    let actions = vec![zero(0, 10), Action::Resize(50), zero(90, 10), Action::Flush, Action::Resize(95)];
    assert_eq!(errnos(&execute(ram().dma(), &backends, 0, actions)), [0; 5]);
    let result = contents(&file);
    assert_eq!((result.len(), &result[..10], &result[10..50]), (95, &[0; 10][..], &[1; 40][..]));
    assert!(result[50..].iter().all(|byte| *byte == 0));
}

#[test]
fn zeros_are_zeros_and_grow_the_file() {
    for may_unmap in [false, true] {
        for (offset, length) in [(0, 100_000), (4096, 8192), (1, 1), (99_990, 100), (200_000, 5000), (5, 0)] {
            let file = file(&[7; 100_000]);
            let backends = [backend(&file, true)];
            let zero = Action::WriteZeroes { ranges: vec![range(offset, length, may_unmap)], exact: false };
            assert_eq!(one(&backends, 0, zero).errno, 0);
            let (start, end) =
                (usize::try_from(offset).expect("short"), usize::try_from(offset + length).expect("short"));
            let mut expected = vec![7; 100_000];
            if length > 0 {
                expected.resize(end.max(100_000), 0);
                expected[start..end].fill(0);
            }
            assert!(contents(&file) == expected, "{may_unmap} {offset} {length}");
            assert_eq!(backends[0].length_bytes(), expected.len() as u64);
        }
    }
}

#[test]
fn unmapping_and_discarding_give_space_back() {
    use std::os::unix::fs::MetadataExt;
    let blocks = |action: Action| {
        let file = file(&[7; 1 << 20]);
        assert_eq!(one(&[backend(&file, true)], 0, action).errno, 0);
        assert_eq!(file.metadata().expect("metadata").len(), 1 << 20);
        file.metadata().expect("metadata").blocks()
    };
    let whole = blocks(Action::Flush);
    assert!(blocks(Action::WriteZeroes { ranges: vec![range(0, 1 << 20, true)], exact: false }) < whole / 4);
    assert!(blocks(Action::Discard(vec![range(0, 2 << 20, false)])) < whole / 4);
}

#[test]
fn discarding_never_grows_a_file() {
    let file = file(&[7; 100]);
    let outcome = one(&[backend(&file, true)], 0, Action::Discard(vec![range(50, 1 << 40, false)]));
    assert_eq!((outcome.errno, contents(&file).len()), (0, 100));
}

#[test]
fn comparing_tells_equal_from_different() {
    let (left, right) = (pattern(300_000, 1), {
        let mut bytes = pattern(300_000, 1);
        bytes[290_000] ^= 1;
        bytes.truncate(299_000);
        bytes
    });
    let (left, right) = (file(&left), file(&right));
    let backends = [backend(&left, false), backend(&right, false)];
    let record = |own_offset_bytes, other_offset_bytes, length_bytes, unit_bytes| CompareRecord {
        own_offset_bytes,
        other_offset_bytes,
        length_bytes,
        other_device: 1,
        unit_bytes,
    };
    let records = vec![
        record(0, 0, 290_000, u32::MAX),
        record(0, 0, 290_001, 290_001),
        record(290_001, 290_001, 100, 512),
        record(299_500, 299_500, 10, 10),
        record(400_000, 500_000, u64::from(u32::MAX), 1 << 30),
        record(0, 1, 10, 4),
        record(0, 0, 298_000, 100_000),
        record(400_000, 0, 10, 10),
        CompareRecord { other_device: ZEROS, ..record(299_990, 7, 20, 5) },
    ];
    let ram = ram();
    let compare = Action::Compare(records, GuestAddress(DATA));
    assert_eq!(errnos(&execute(ram.dma(), &backends, 0, vec![compare])), [0]);
    assert_eq!(read_bytes(ram.dma(), DATA, 20), [0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 2, 1, 1, 0, 0, 0]);
}

#[test]
fn holes_are_zeros_and_what_differs_is_found_unit_by_unit() {
    const UNIT: u64 = 4096;
    let (left, right) = (file(&[]), file(&[]));
    for (file, units) in [(&left, &[3_u64, 40, 41, 300][..]), (&right, &[3, 41, 200])] {
        file.set_len(600 * UNIT).expect("a length");
        for unit in units {
            file.write_all_at(&[7; 100], unit * UNIT + 3000).expect("written");
        }
    }
    left.write_all_at(&[0; 4096], 100 * UNIT).expect("written");
    left.write_all_at(&[1], 41 * UNIT + 4095).expect("written");
    let backends = [backend(&left, false), backend(&right, false)];
    let ram = ram();
    let record = CompareRecord {
        own_offset_bytes: 0,
        other_offset_bytes: 0,
        length_bytes: 600 * UNIT,
        other_device: 1,
        unit_bytes: 4096,
    };
    assert_eq!(errnos(&execute(ram.dma(), &backends, 0, vec![Action::Compare(vec![record], GuestAddress(DATA))])), [0]);
    let verdicts = read_bytes(ram.dma(), DATA, 600);
    let found: Vec<(usize, u8)> = verdicts.into_iter().enumerate().filter(|(_, verdict)| *verdict != 0).collect();
    assert_eq!(found, [(40, 1), (41, 1), (200, 2), (300, 1)]);
}

#[test]
fn unknown_requests_are_unsupported() {
    let file = file(&[]);
    assert_eq!(one(&[backend(&file, true)], 0, Action::Unknown).status, status::UNSUPPORTED);
}

#[test]
fn hostile_lengths_cost_neither_time_nor_memory() {
    let (target, source) = (file(&[0; 10]), file(&[1; 10]));
    let backends = [backend(&target, true), backend(&source, false)];
    let far = i64::MAX.cast_unsigned();
    for record in [
        copy(0, 1, 0, u64::MAX),
        copy(u64::MAX, 1, 0, 1),
        copy(0, 1, u64::MAX, 1),
        copy(far, 1, 0, 1),
        copy(1, 1, far, 1),
    ] {
        assert_ne!(one(&backends, 0, Action::Copy(vec![record.clone(); 4096])).errno, 0, "{record:?}");
    }
    assert_eq!(contents(&target), [0; 10]);
}
