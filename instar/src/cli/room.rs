//! Whether what a commit writes fits on the base's file system. Asked before anything is written, and only where little space
//! is left: then the commit is rehearsed first, which says how much it needs.
//!
//! What cannot be known is taken for enough: a commit is refused only where it would certainly have failed halfway.

use instar_abi::job::operation;
use zeroize::Zeroizing;

use super::error::Failure;
use super::info::size;
use super::job::{Devices, memory_bytes};
use super::sandbox::Sandbox;
use crate::code::Code;
use crate::devices::Effects;
use crate::files::chain::Layer;
use crate::files::{ImageFile, Space};

/// So many times what the layers above the base take on the disk is enough without a closer look. More is needed only for
/// data that is packed even better; then a commit finds out as it writes.
const AMPLE: u64 = 4;

/// File systems count what is free only roughly while data waits to be written: so much more may turn out to be.
const MARGIN_BYTES: u64 = 1 << 20;
/// And this part of what is needed.
const MARGIN_PART: u64 = 64;

/// Refuses a commit that cannot fit. `job` makes the job that would be done.
///
/// # Errors
/// The refusal.
pub(super) fn check<'a>(
    layers: &[Layer],
    base: usize,
    job: impl FnOnce() -> (Devices<'a>, Zeroizing<Vec<u8>>),
    sandbox: &mut impl Sandbox,
) -> Result<(), Failure> {
    let above = layers[..base].iter().flat_map(Layer::files);
    let above = above.map(|file| file.facts().map_or(u64::MAX, |facts| facts.allocated_bytes));
    let ample = above.fold(0, u64::saturating_add).saturating_mul(AMPLE);
    if layers[base].files().filter_map(Space::free_for).all(|free_bytes| free_bytes >= ample) {
        return Ok(());
    }
    let (devices, job) = job();
    // Whatever goes wrong here goes wrong again, and is told then.
    let Ok(rehearsed) = sandbox.rehearse(operation::COMMIT, &devices, &job, memory_bytes(layers)) else {
        return Ok(());
    };
    if rehearsed.answer.error().is_some() {
        return Ok(());
    }
    let first = layers[..base].iter().flat_map(Layer::files).count();
    let effects = rehearsed.effects.get(first..).unwrap_or_default();
    for (file, effects) in layers[base].files().zip(effects) {
        let Some(space) = Space::of(file) else { continue };
        let needed = surely_needed(effects, &space);
        if needed - needed / MARGIN_PART > space.free_bytes.saturating_add(MARGIN_BYTES) {
            return Err(refusal(file, needed, &space));
        }
    }
    Ok(())
}

/// A lower bound of what a file will take of its file system on top of what it has.
fn surely_needed(effects: &Effects, space: &Space) -> u64 {
    let saved = effects.freed_bytes.saturating_add(space.unused_bytes).saturating_add(space.block_bytes);
    effects.newly_stored_bytes.saturating_sub(saved)
}

fn refusal(file: &ImageFile, needed: u64, space: &Space) -> Failure {
    let text = format!(
        "No space left on device: the commit needs {} more there, and {} are free. Nothing was changed",
        size::for_people(needed),
        size::for_people(space.free_bytes)
    );
    Failure::Image { code: Code::NoSpace, image: file.name().to_vec(), text: text.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_has_in_reserve_is_not_needed() {
        let effects = Effects { newly_stored_bytes: 100_000, freed_bytes: 10_000, ..Effects::none(0) };
        let space = Space { free_bytes: 0, unused_bytes: 5000, block_bytes: 4096 };
        assert_eq!(surely_needed(&effects, &space), 100_000 - 10_000 - 5000 - 4096);
        assert_eq!(surely_needed(&Effects::none(7), &space), 0);
    }
}
