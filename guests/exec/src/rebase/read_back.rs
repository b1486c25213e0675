//! Reads what the overlay has just received again, before any table shows it: what went wrong on the way is then found while
//! the overlay still reads as before.

use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::extent::{self, Extent, Source};

use crate::compare::{Compared, Comparer};
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::Storage;

/// Compares what the old chain shows with what the overlay holds now, wherever it has `received` something. `old` and `now`
/// cover the same range without gaps.
///
/// # Errors
/// If there is a difference, or a device refuses.
pub(super) fn read_back(
    storage: &mut dyn Storage,
    comparer: &mut Comparer,
    received: &[Extent],
    old: &[Extent],
    now: &[Extent],
    unit_bytes: u64,
) -> Result<()> {
    let (Some(first), Some(last)) = (now.first(), now.last()) else { return Ok(()) };
    let range = (first.guest_offset, last.end());
    let mut untouched = Vec::new();
    let mut position = range.0;
    let stays = |start: u64, end: u64| Extent { guest_offset: start, length_bytes: end - start, source: Source::Zero };
    for piece in received {
        extent::push(&mut untouched, stays(position, piece.guest_offset));
        extent::push(&mut untouched, Extent { source: Source::Absent, ..*piece });
        position = piece.end();
    }
    extent::push(&mut untouched, stays(position, range.1));
    storage.settle().map_err(|error| Failure::storage(0, error))?;
    let mut compared = Compared::plan(&untouched, old, now, range, unit_bytes);
    comparer.compare(storage, &mut [&mut compared])?;
    match compared.first_difference() {
        None => Ok(()),
        Some(byte) => Err(Failure::new(
            error_kind::REFUSED,
            0,
            format_args!(
                "Verification failed: within {unit_bytes} bytes from byte {byte} of the disk on, what was written reads \
                 differently; none of it is in use, and the image reads as before: check the disk"
            ),
        )),
    }
}
