//! Content identifiers: a number that changes with an image's content, by which a child knows its parent again.
//!
//! Source: Virtual Disk Format 5.0, "The Header" (CID, parentCID).

use core::fmt;

/// A content identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cid(pub u32);

impl Cid {
    /// What stands in `parentCID` of an image without parent.
    pub const NONE: Self = Self(u32::MAX);

    /// Another identifier, at most `digits` hexadecimal digits long, never 0 and never [`Cid::NONE`].
    ///
    /// Depends on this one alone, so that equal inputs give equal files.
    #[must_use]
    pub fn successor(self, digits: u32) -> Self {
        let bits = (digits.clamp(1, 8)) * 4;
        let mut value = self.0;
        loop {
            value = mixed(value);
            let candidate = Self(value >> (32 - bits));
            if candidate.0 != 0 && candidate != Self::NONE && candidate != self {
                return candidate;
            }
        }
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A step of a sequence that runs through all 32-bit numbers (odd increment, multiplier of the form 4n + 1).
const fn mixed(value: u32) -> u32 {
    value.wrapping_mul(0x9e37_79b5).wrapping_add(0x7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_successor_is_another_valid_identifier_of_the_same_width(value: u32, digits in 1u32..=8) {
            let next = Cid(value).successor(digits);
            prop_assert!(next != Cid(value) && next != Cid::NONE && next.0 != 0);
            prop_assert!(digits == 8 || next.0 >> (digits * 4) == 0);
        }
    }
}
