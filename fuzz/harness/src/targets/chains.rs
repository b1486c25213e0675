//! Sound chains: planner and executor against what a guest must see, read from the chain before the operation.

use arbitrary::{Arbitrary, Unstructured};
use instar_abi::job::{RebaseJob, commit_flag, rebase_flag};
use instar_exec::memory::MemoryStorage;

use crate::generators::chain::{Image, build};
use crate::oracles::report::is_done;
use crate::recount::assert_refcounts_are_exact;
use crate::{jobs, support};

const REPORT_BYTES: usize = 4096;

/// An overlay and its base, of any shapes: the base shows what the overlay showed, and the overlay still does.
pub(super) fn plan_commit(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (Ok(overlay), Ok(base)) = (Image::qcow2(&mut u), Image::arbitrary(&mut u)) else { return };
    let (mut storage, formats) = build(&[overlay, base.clone()]);
    let before = support::read(&mut storage, &formats, 0);
    let mut report = vec![0; REPORT_BYTES];
    instar_exec::commit::run(&jobs::commit(&formats, 1, commit_flag::EMPTY_OVERLAY), &mut storage, &mut report);
    assert!(is_done(&report), "a sound chain was refused: {}", text(&report));
    assert!(support::read(&mut storage, &formats, 0) == before, "the overlay shows something else");
    assert!(support::read(&mut storage, &formats, 1)[..before.len()] == before, "the base shows something else");
    assert_refcounts_are_exact(&storage.devices[0]);
    if base.is_qcow2() {
        assert_refcounts_are_exact(&storage.devices[1]);
    }
}

/// An overlay, its old and its new backing file: it shows the same through the new one.
pub(super) fn plan_rebase(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (Ok(overlay), Ok(old), Ok(new)) = (Image::qcow2(&mut u), Image::arbitrary(&mut u), Image::arbitrary(&mut u))
    else {
        return;
    };
    let flags = if u.arbitrary().unwrap_or(false) { rebase_flag::COMPRESS } else { 0 };
    let (old_chain, old_formats) = build(&[overlay, old]);
    let (new_chain, new_formats) = build(&[new]);
    let before = support::read(&mut old_chain.clone(), &old_formats, 0);
    let mut storage = MemoryStorage { devices: [old_chain.devices, new_chain.devices].concat() };
    let formats = [old_formats, new_formats].concat();
    let mut part = RebaseJob {
        flags,
        old_layers: 1,
        join_layer: 2,
        name_length_bytes: 3,
        name: [0; 1024],
        format_name: *b"qcow2\0\0\0\0\0\0\0\0\0\0\0",
    };
    part.name[..3].copy_from_slice(b"new");
    let mut report = vec![0; REPORT_BYTES];
    instar_exec::rebase::run(&jobs::rebase(&formats, &part), &mut storage, &mut report);
    assert!(is_done(&report), "a sound chain was refused: {}", text(&report));
    assert_refcounts_are_exact(&storage.devices[0]);
    storage.devices.remove(1);
    assert!(support::read(&mut storage, &[formats[0], formats[2]], 0) == before, "the overlay shows something else");
}

fn text(report: &[u8]) -> String {
    use instar_abi::wire::Wire;
    let header = instar_abi::report::ReportHeader::get(report);
    String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned()
}
