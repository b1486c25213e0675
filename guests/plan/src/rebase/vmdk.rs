//! Plans what an overlay whose blocks are whole receives from its old chain: vmdk and qed images have neither subclusters nor
//! packed clusters beside plain ones.

use alloc::vec::Vec;

use super::compare::Verdicts;
use super::qcow2::clip_into;
use crate::extent::{self, Extent, Source};

/// Plans one window: the units that differ, as the old chain shows them. Zeros stay zeros, whatever the old chain needs
/// for them.
///
/// `old` says what the old chain shows, without `Absent`, in order and without gaps over the window.
#[must_use]
pub fn plan_rebase_vmdk(old: &[Extent], verdicts: &Verdicts) -> Vec<Extent> {
    let mut received = Vec::new();
    let mut index = 0;
    for (start, end, has_data) in verdicts.differing() {
        if has_data {
            clip_into(old, &mut index, start, end, &mut received);
        } else {
            let zeros = Extent { guest_offset: start, length_bytes: end - start, source: Source::Zero };
            extent::push(&mut received, zeros);
        }
    }
    received
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_differ_are_received_and_zeros_stay_zeros() {
        let extent = |guest_offset, length_bytes, source| Extent { guest_offset, length_bytes, source };
        let data = |host_offset| Source::Data { device: 1, host_offset };
        let mut verdicts = Verdicts::new(0, 60, 16);
        verdicts.record(16, true, false);
        verdicts.record(32, true, true);
        verdicts.record(48, true, false);
        let old = [extent(0, 50, data(0x100)), extent(50, 10, Source::Zero)];
        let expected = [
            extent(16, 16, data(0x110)),
            extent(32, 16, Source::Zero),
            extent(48, 2, data(0x130)),
            extent(50, 10, Source::Zero),
        ];
        assert_eq!(plan_rebase_vmdk(&old, &verdicts), expected);
    }
}
