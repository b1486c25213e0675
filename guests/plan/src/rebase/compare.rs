//! What has to be read to know where two chains show different bytes: metadata alone answers for everything that is
//! allocated in the overlay, and for everything that is zero, or at the same place of the same file, in both chains.

use alloc::vec;
use alloc::vec::Vec;

use crate::extent::{Extent, Source};

/// Verdict: the two chains show different bytes in this unit.
const DIFFERS: u8 = 1;
/// Verdict: the old chain shows bytes there that are not, or not known to be, zeros.
const OLD_HAS_DATA: u8 = 1 << 1;

/// A range that has to be compared by content; on each side it has one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// First byte on the disk.
    pub guest_offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Where the old chain's bytes come from; never `Absent`.
    pub old: Source,
    /// Where the new chain's bytes come from; never `Absent`, never the same as `old`.
    pub new: Source,
}

impl Comparison {
    /// First byte behind the range.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.guest_offset + self.length_bytes
    }

    /// How many bytes have to be read: zeros need no reading.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        let sides = [self.old, self.new].into_iter().filter(|source| *source != Source::Zero).count();
        self.length_bytes.saturating_mul(sides as u64)
    }
}

/// What is known of each unit of a window; a unit is the smallest part of the overlay that can be allocated by itself.
#[derive(Clone, Debug)]
pub struct Verdicts {
    start: u64,
    end: u64,
    unit_bytes: u64,
    units: Vec<u8>,
}

impl Verdicts {
    /// For `start..end`, with nothing known. `start` is a multiple of `unit_bytes`; the last unit may be shorter.
    ///
    /// # Panics
    /// If the window has more units than memory can count.
    #[must_use]
    pub fn new(start: u64, end: u64, unit_bytes: u64) -> Self {
        let count = usize::try_from((end - start).div_ceil(unit_bytes)).expect("windows are bounded");
        Self { start, end, unit_bytes, units: vec![0; count] }
    }

    /// Records what a range within one unit has shown.
    pub fn record(&mut self, guest_offset: u64, differs: bool, old_is_zero: bool) {
        let index = self.index(guest_offset);
        self.units[index] |= if differs { DIFFERS } else { 0 } | if old_is_zero { 0 } else { OLD_HAS_DATA };
    }

    /// Whether comparing more of the unit that holds `guest_offset` cannot teach anything.
    #[must_use]
    pub fn is_settled(&self, guest_offset: u64) -> bool {
        self.units[self.index(guest_offset)] == DIFFERS | OLD_HAS_DATA
    }

    /// End of the unit that holds `guest_offset`.
    #[must_use]
    pub fn unit_end(&self, guest_offset: u64) -> u64 {
        (guest_offset / self.unit_bytes * self.unit_bytes).saturating_add(self.unit_bytes).min(self.end)
    }

    /// The units that differ: first byte, first byte behind, and whether the old chain holds data there.
    pub fn differing(&self) -> impl Iterator<Item = (u64, u64, bool)> + '_ {
        (0u64..).zip(&self.units).filter(|(_, verdict)| *verdict & DIFFERS != 0).map(|(index, verdict)| {
            let start = self.start + index * self.unit_bytes;
            (start, (start + self.unit_bytes).min(self.end), verdict & OLD_HAS_DATA != 0)
        })
    }

    fn index(&self, guest_offset: u64) -> usize {
        usize::try_from((guest_offset - self.start) / self.unit_bytes).expect("windows are bounded")
    }
}

/// Plans which ranges of a window have to be compared by content, and records in `verdicts` what needs none.
///
/// `own` says what the overlay itself holds; `old` and `new` what the two chains show, without `Absent`. All are in order
/// and without gaps over the window. What the overlay holds hides both chains, so that only what is `Absent` counts.
#[must_use]
pub fn plan_comparisons(own: &[Extent], old: &[Extent], new: &[Extent], verdicts: &mut Verdicts) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    let (mut old_index, mut new_index) = (0, 0);
    for gap in own.iter().filter(|extent| extent.source == Source::Absent) {
        let mut position = gap.guest_offset;
        while position < gap.end() {
            let (Some(old), Some(new)) =
                (at(old, &mut old_index, position, gap.end()), at(new, &mut new_index, position, gap.end()))
            else {
                break;
            };
            let end = old.end().min(new.end());
            if old.source != new.source {
                comparisons.push(Comparison {
                    guest_offset: position,
                    length_bytes: end - position,
                    old: old.source,
                    new: new.source,
                });
            } else if old.source != Source::Zero {
                let mut place = position;
                while place < end {
                    verdicts.record(place, false, false);
                    place = verdicts.unit_end(place);
                }
            }
            position = end;
        }
    }
    comparisons
}

/// The part of the extent at `position` that lies in `position..end`; `index` moves on as positions do.
fn at(extents: &[Extent], index: &mut usize, position: u64, end: u64) -> Option<Extent> {
    while extents.get(*index).is_some_and(|extent| extent.end() <= position) {
        *index += 1;
    }
    extents.get(*index).and_then(|extent| extent.clipped(position, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(guest_offset: u64, length_bytes: u64, source: Source) -> Extent {
        Extent { guest_offset, length_bytes, source }
    }

    fn data(device: u32, host_offset: u64) -> Source {
        Source::Data { device, host_offset }
    }

    fn planned(own: &[Extent], old: &[Extent], new: &[Extent]) -> (Vec<Comparison>, Verdicts) {
        let mut verdicts = Verdicts::new(0, 64, 16);
        (plan_comparisons(own, old, new, &mut verdicts), verdicts)
    }

    #[test]
    fn what_the_overlay_holds_is_not_compared() {
        let own = [extent(0, 16, data(0, 0)), extent(16, 16, Source::Absent), extent(32, 32, Source::Zero)];
        let (comparisons, _) = planned(&own, &[extent(0, 64, data(1, 0))], &[extent(0, 64, Source::Zero)]);
        assert_eq!(
            comparisons,
            [Comparison { guest_offset: 16, length_bytes: 16, old: data(1, 16), new: Source::Zero }]
        );
        assert_eq!(comparisons[0].read_bytes(), 16);
    }

    #[test]
    fn the_same_place_of_the_same_device_is_equal_without_reading() {
        let own = [extent(0, 64, Source::Absent)];
        let old = [extent(0, 32, data(2, 100)), extent(32, 32, Source::Zero)];
        let new = [extent(0, 16, data(2, 100)), extent(16, 16, data(2, 200)), extent(32, 32, Source::Zero)];
        let (comparisons, verdicts) = planned(&own, &old, &new);
        assert_eq!(
            comparisons,
            [Comparison { guest_offset: 16, length_bytes: 16, old: data(2, 116), new: data(2, 200) }]
        );
        assert_eq!(verdicts.units, [OLD_HAS_DATA, 0, 0, 0]);
        assert_eq!(verdicts.differing().count(), 0);
    }

    #[test]
    fn a_unit_is_settled_once_it_differs_and_is_not_zero() {
        let mut verdicts = Verdicts::new(32, 60, 16);
        verdicts.record(40, true, true);
        assert!(!verdicts.is_settled(47));
        verdicts.record(44, false, false);
        assert!(verdicts.is_settled(47));
        verdicts.record(59, true, true);
        assert_eq!(verdicts.differing().collect::<Vec<_>>(), [(32, 48, true), (48, 60, false)]);
        assert_eq!(verdicts.unit_end(50), 60);
    }
}
