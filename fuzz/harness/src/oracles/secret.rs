//! As `image`, for encrypted images and with the secret that opens them: what a hostile image can do behind its key.

use instar_abi::job::{RebaseJob, commit_flag, format};

use super::image::{run, small_overlay};
use super::report::{check_info, is_done};
use crate::generators::secret::KEY;
use crate::images::{SECRET, with_secret};
use crate::jobs;
use crate::maker::{PAYLOAD, decrypt};
use crate::support::{QCOW2, RAW};

/// Inspects the image, commits it as an overlay and as a base, and rebases it, all with its secret. A sound one must be
/// accepted, and a sound volume must hold, decrypted by other code, what was committed into it.
///
/// # Panics
/// If one of these does not hold, a report is not well formed, or a device changed that must not.
pub fn survives_with_secret(image: &[u8], image_format: u32, is_sound: bool) {
    for given in [image_format, format::PROBE] {
        check_info(&run(vec![image.to_vec()], &jobs::info(given), instar_exec::info::run).1);
    }
    let raw = || vec![0x11; 128 << 10];
    let overlay = small_overlay();
    let commit = with_secret(jobs::commit(&[QCOW2, image_format], 1, 0), SECRET);
    let (devices, report) = run(vec![overlay.clone(), image.to_vec()], &commit, instar_exec::commit::run);
    assert!(is_done(&report) || !is_sound, "a sound base was refused");
    assert!(devices[0] == overlay, "an overlay was changed that was to stay");
    if is_sound && image_format == format::LUKS {
        assert!(devices[1].starts_with(&image[..PAYLOAD]), "the header or a key slot was changed");
        holds_the_overlay(&devices[1]);
    }
    if image_format != QCOW2 {
        return;
    }
    let commit = with_secret(jobs::commit(&[QCOW2, RAW], 1, commit_flag::EMPTY_OVERLAY), SECRET);
    let (devices, report) = run(vec![image.to_vec(), raw()], &commit, instar_exec::commit::run);
    let is_committed = is_done(&report);
    assert!(is_committed || !is_sound, "a sound overlay was refused");
    assert!(is_committed || devices[1] != raw() || devices[0] == image, "an overlay was emptied without a commit");
    let part = RebaseJob {
        flags: 0,
        old_layers: 1,
        join_layer: 2,
        name_length_bytes: 0,
        name: [0; 1024],
        format_name: [0; 16],
    };
    let job = with_secret(jobs::rebase(&[QCOW2, RAW], &part), SECRET);
    let (devices, report) = run(vec![image.to_vec(), raw()], &job, instar_exec::rebase::run);
    assert!(is_done(&report) || !is_sound, "a sound image was not rebased");
    assert!(devices[1] == raw(), "the old backing file was changed");
}

/// A volume shows what [`small_overlay`] holds, and zeros where that holds nothing.
fn holds_the_overlay(volume: &[u8]) {
    let mut payload = volume[PAYLOAD..].to_vec();
    payload.truncate(payload.len() / 512 * 512);
    decrypt(&KEY, 0, &mut payload);
    let (data, rest) = payload.split_at(5000);
    assert!(data.iter().all(|byte| *byte == 0x5a), "the volume lacks what was committed");
    assert!(rest.iter().all(|byte| *byte == 0), "the volume holds what nobody wrote");
}
