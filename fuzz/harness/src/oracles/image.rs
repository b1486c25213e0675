//! Whatever the bytes of an image are, every operation on it ends in a report, and changes no device but those that it may.
//!
//! Cannot see: whether what was done to a sound image is right; the chain targets see that.

use instar_abi::job::{RebaseJob, commit_flag, format, rebase_flag};
use instar_abi::memory::REPORT_BYTES;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};

use super::bounded::Bounded;
use super::report::{check_info, is_done};
use crate::jobs;
use crate::support::{self, QCOW2, RAW, Shape, empty_image};

/// Images in memory longer than this are cut: what lies further on is reached by no table that fits.
const IMAGE_BYTES_MAX: usize = 16 << 20;

/// Width of the map that is asked for.
const MAP_COLUMNS: u32 = 64;

/// Inspects the image, maps it, commits it as an overlay and as a base, and rebases it.
///
/// # Panics
/// If a report is not well formed, or a device changed that must not.
pub fn survives_everything(image: &[u8], image_format: u32) {
    let image = &image[..image.len().min(IMAGE_BYTES_MAX)];
    for given in [image_format, format::PROBE] {
        let report = run(vec![image.to_vec()], &jobs::info(given), instar_exec::info::run).1;
        check_info(&report);
    }
    is_done(&run(vec![image.to_vec()], &jobs::map(&[image_format], MAP_COLUMNS), instar_exec::map::run).1);
    let raw = || vec![0x11; 128 << 10];
    let commit = jobs::commit(&[image_format, RAW], 1, commit_flag::EMPTY_OVERLAY);
    let (devices, report) = run(vec![image.to_vec(), raw()], &commit, instar_exec::commit::run);
    if !is_done(&report) && devices[1] == raw() {
        assert!(devices[0] == image || image_format != QCOW2, "an overlay was emptied without a commit");
    }
    let overlay = small_overlay();
    let commit = jobs::commit(&[QCOW2, image_format], 1, 0);
    let (devices, report) = run(vec![overlay.clone(), image.to_vec()], &commit, instar_exec::commit::run);
    is_done(&report);
    assert!(devices[0] == overlay, "an overlay was changed that was to stay");
    let part = RebaseJob {
        flags: 0,
        old_layers: 1,
        join_layer: 2,
        name_length_bytes: 0,
        name: [0; 1024],
        format_name: [0; 16],
    };
    let flags = rebase_flag::UNSAFE | rebase_flag::IF_PLAIN;
    let job = jobs::rebase(&[format::PROBE], &RebaseJob { flags, old_layers: 0, join_layer: 1, ..part.clone() });
    let (devices, report) = run(vec![image.to_vec()], &job, instar_exec::rebase::run);
    assert!(is_done(&report) || devices[0] == image, "an image was changed without a rebase");
    if image_format == QCOW2 {
        let job = jobs::rebase(&[QCOW2, RAW], &part);
        let (devices, report) = run(vec![image.to_vec(), raw()], &job, instar_exec::rebase::run);
        is_done(&report);
        assert!(devices[1] == raw(), "the old backing file was changed");
    }
}

type Operation = fn(&[u8], &mut dyn instar_exec::Storage, &mut [u8]);

/// Carries out a job on devices; gives them and the report.
pub(super) fn run(devices: Vec<Vec<u8>>, job: &[u8], operation: Operation) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut storage = Bounded(MemoryStorage { devices });
    let mut report = vec![0; usize::try_from(REPORT_BYTES).expect("fits")];
    operation(job, &mut storage, &mut report);
    (storage.0.devices, report)
}

/// An overlay of 64 KiB with data (5000 bytes of 0x5a at its start) and zeros in it.
pub(super) fn small_overlay() -> Vec<u8> {
    let shape = Shape {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        extended_l2: false,
        size_bytes: 64 << 10,
        has_backing: true,
    };
    let mut storage = MemoryStorage { devices: vec![empty_image(&shape), vec![0x5a; 64 << 10]] };
    let extents = [(0, 5000, Source::Data { device: 1, host_offset: 0 }), (20_480, 8192, Source::Zero)];
    let extents = extents.map(|(guest_offset, length_bytes, source)| Extent { guest_offset, length_bytes, source });
    support::write(&mut storage, &[QCOW2], 0, &extents);
    storage.devices.remove(0)
}
