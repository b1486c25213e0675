//! A rehearsal leaves the file as it is, and shows what doing the same would have left.

use std::fs::File;
use std::sync::Arc;

use instar_abi::block::{CopyRecord, status};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::Backend;
use super::super::chain::Span;
use super::super::executor::{Executor, Kept, Outcome};
use super::super::rehearsal::{Effects, obstacle};
use super::super::request::{Action, Answer, Range, Request};
use super::{ANSWER, DATA, contents, file, pattern, ram, read_bytes};
use crate::vm::GuestRam;

/// The longest file, in bytes.
const ROOM: u64 = 3000;

fn execute(ram: &GuestRam, backends: &[Backend<'_>], own: usize, action: Action) -> Outcome {
    let request = Request { head: 0, action, answer: Answer::Completion(GuestAddress(ANSWER)), writable_bytes: 16 };
    let kept = Kept::default();
    let executor = Executor { backends, own, memory: ram.dma(), throttle: None, codec_machines: None, kept: &kept };
    executor.execute(&[request], &mut |_| ())[0]
}

/// Two writable files and one that is not, all of them rehearsed or none.
fn backends<'a>(files: &'a [File; 3], scratch: &'a [File; 2], rehearse: bool) -> [Backend<'a>; 3] {
    let all: Arc<[&File]> = files.iter().collect();
    let backend = |at: usize| {
        let scratch = scratch.get(at).filter(|_| rehearse);
        Backend::new(&files[at], at < 2).expect("a regular file").rehearsed_on(scratch, &all)
    };
    [backend(0), backend(1), backend(2)]
}

fn shown(ram: &GuestRam, backends: &[Backend<'_>], own: usize) -> Vec<u8> {
    let length = usize::try_from(backends[own].length_bytes()).expect("short");
    let span = Span { address: GuestAddress(DATA), length };
    if length > 0 {
        let read = Action::Read { offset: 0, spans: vec![span], exact: false };
        assert_eq!(execute(ram, backends, own, read).status, status::OK);
    }
    read_bytes(ram.dma(), DATA, length)
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, length: usize },
    Zero { offset: u64, length: u64, may_unmap: bool },
    Copy { target: u64, source_device: u32, source: u64, length: u64 },
    Resize(u64),
}

impl Step {
    fn action(&self) -> Action {
        match *self {
            Self::Write { offset, length } => {
                Action::Write { offset, spans: vec![Span { address: GuestAddress(DATA), length }], exact: false }
            }
            Self::Zero { offset, length, may_unmap } => {
                Action::WriteZeroes { ranges: vec![Range { offset, length, may_unmap }], exact: false }
            }
            Self::Copy { target, source_device, source, length } => Action::Copy(vec![CopyRecord {
                target_offset_bytes: target,
                source_offset_bytes: source,
                length_bytes: length,
                source_device,
                reserved: 0,
            }]),
            Self::Resize(length) => Action::Resize(length),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let (offset, length) = (0..ROOM - 500, 0..500u64);
    prop_oneof![
        (offset.clone(), 1..500usize).prop_map(|(offset, length)| Step::Write { offset, length }),
        (offset.clone(), length.clone(), any::<bool>()).prop_map(|(offset, length, may_unmap)| Step::Zero {
            offset,
            length,
            may_unmap
        }),
        (offset.clone(), 0..3u32, offset, length).prop_map(|(target, source_device, source, length)| Step::Copy {
            target,
            source_device,
            source,
            length
        }),
        (0..ROOM).prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn a_rehearsal_shows_what_the_deed_leaves(
        lengths in [0..1500usize, 0..1500usize, 0..1500usize],
        steps in proptest::collection::vec((0..2usize, any::<u8>(), any_step()), 0..25),
    ) {
        let ram = ram();
        let images: Vec<Vec<u8>> = lengths.iter().zip([1, 90, 170]).map(|(&length, seed)| pattern(length, seed)).collect();
        let real = [file(&images[0]), file(&images[1]), file(&images[2])];
        let rehearsed = [file(&images[0]), file(&images[1]), file(&images[2])];
        let scratch = [file(b""), file(b"")];
        let real = backends(&real, &scratch, false);
        let kept = &rehearsed;
        let rehearsed = backends(kept, &scratch, true);
        for (own, seed, step) in steps {
            ram.dma().write_slice(&pattern(500, seed), GuestAddress(DATA)).expect("in memory");
            let action = step.action();
            prop_assert_eq!(execute(&ram, &real, own, action.clone()), execute(&ram, &rehearsed, own, action));
        }
        for own in 0..3 {
            prop_assert_eq!(real[own].length_bytes(), rehearsed[own].length_bytes());
            prop_assert_eq!(shown(&ram, &real, own), shown(&ram, &rehearsed, own));
            prop_assert_eq!(contents(&kept[own]), &images[own][..]);
            let effects = rehearsed[own].effects();
            let lengths = (effects.length_before, effects.length_after, effects.obstacle);
            prop_assert_eq!(lengths, (images[own].len() as u64, real[own].length_bytes(), obstacle::NONE));
        }
    }
}

#[test]
fn what_is_done_is_counted_by_what_became_of_each_place() {
    let ram = ram();
    let files = [file(&[1; 64 << 10]), file(b""), file(&[2; 64 << 10])];
    let scratch = [file(b""), file(b"")];
    let backends = backends(&files, &scratch, true);
    let copy = |target, length| Step::Copy { target, source_device: 2, source: 0, length }.action();
    for action in [
        copy(60 << 10, 8 << 10),
        copy(68 << 10, 4 << 10),
        Step::Write { offset: 70 << 10, length: 2048 }.action(),
        Step::Zero { offset: 0, length: 4 << 10, may_unmap: true }.action(),
        Action::Discard(vec![Range { offset: 8 << 10, length: 4 << 10, may_unmap: false }]),
        Action::Flush,
    ] {
        assert_eq!(execute(&ram, &backends, 0, action).status, status::OK);
    }
    let expected = Effects {
        length_after: 72 << 10,
        copied_bytes: 10 << 10,
        copied_extents: 1,
        written_bytes: 2 << 10,
        written_extents: 1,
        zeroed_bytes: 4 << 10,
        zeroed_extents: 1,
        released_bytes: 4 << 10,
        released_extents: 1,
        newly_stored_bytes: 8 << 10,
        freed_bytes: 8 << 10,
        ..Effects::none(64 << 10)
    };
    assert_eq!(backends[0].effects(), expected);
    assert_eq!(backends[1].effects(), Effects::none(0));
    assert_eq!(contents(&files[0]), [1; 64 << 10]);
}

#[test]
fn a_scratch_file_that_takes_nothing_is_named_as_the_obstacle() {
    let ram = ram();
    let files = [file(b""), file(b""), file(b"")];
    let full = File::options().read(true).write(true).open("/dev/full").expect("it exists");
    let scratch = [full, file(b"")];
    let backends = backends(&files, &scratch, true);
    let outcome = execute(&ram, &backends, 0, Step::Write { offset: 0, length: 9 }.action());
    assert_eq!(outcome.errno, libc::ENOSPC);
    let effects = backends[0].effects();
    assert_eq!((effects.obstacle, effects.obstacle_errno), (obstacle::SCRATCH, libc::ENOSPC.unsigned_abs().into()));
}
