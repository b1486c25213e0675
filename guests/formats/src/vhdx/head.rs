//! The two headers, of which the valid one with the higher sequence number counts.

use alloc::vec::Vec;

use super::checksum::of_structure;
use super::{ALIGNMENT_BYTES, Guid, VhdxError};
use crate::bytes::{array, le_u32, le_u64};

/// Length of a header in bytes.
pub const HEAD_BYTES: usize = 4096;
/// Where the headers lie.
pub const HEAD_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
const SIGNATURE: &[u8] = b"head";
const CHECKSUM_OFFSET: usize = 4;
const VERSION: u16 = 1;

/// A valid header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The higher one counts.
    pub sequence: u64,
    /// All zeros if the log is empty.
    pub log_guid: Guid,
    /// Where the log lies.
    pub log_offset: u64,
    /// Length of the log in bytes.
    pub log_bytes: u32,
    bytes: Vec<u8>,
}

impl Head {
    /// Reads [`HEAD_BYTES`]; `None` if they are no valid header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEAD_BYTES)?;
        let version = u16::from_le_bytes(array(bytes, 66)?);
        let is_valid =
            bytes.starts_with(SIGNATURE) && le_u32(bytes, CHECKSUM_OFFSET)? == of_structure(bytes, CHECKSUM_OFFSET);
        if !is_valid || version != VERSION {
            return None;
        }
        Some(Self {
            sequence: le_u64(bytes, 8)?,
            log_guid: array(bytes, 48)?,
            log_offset: le_u64(bytes, 72)?,
            log_bytes: le_u32(bytes, 68)?,
            bytes: bytes.to_vec(),
        })
    }

    /// The header of a file whose data are about to change: the next sequence number, and other GUIDs for file and data.
    /// They follow from the old ones, since nothing here has a source of random numbers.
    #[must_use]
    pub fn renewed(&self) -> Self {
        let mut head = self.clone();
        head.sequence = self.sequence.wrapping_add(1);
        head.bytes[8..16].copy_from_slice(&head.sequence.to_le_bytes());
        for (number, start) in [(1, 16), (2, 32)] {
            let guid: Guid = array(&self.bytes, start).unwrap_or_default();
            head.bytes[start..start + 16].copy_from_slice(&next_guid(guid, self.sequence, number));
        }
        head.sealed()
    }

    /// The same header, as the copy of it that lies in the other place.
    #[must_use]
    pub fn repeated(&self) -> Self {
        let mut head = self.clone();
        head.sequence = self.sequence.wrapping_add(1);
        head.bytes[8..16].copy_from_slice(&head.sequence.to_le_bytes());
        head.sealed()
    }

    /// The header as it is stored: [`HEAD_BYTES`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn sealed(mut self) -> Self {
        let sum = of_structure(&self.bytes, CHECKSUM_OFFSET);
        self.bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
        self
    }
}

/// Which of the headers found at [`HEAD_OFFSETS`] counts, and its number.
///
/// # Errors
/// If none is valid; if its log is not empty; if the log lies where no log can lie.
pub fn current(heads: [Option<Head>; 2]) -> Result<(Head, usize), VhdxError> {
    let [first, second] = heads;
    let (head, number) = match (first, second) {
        (Some(first), Some(second)) if second.sequence > first.sequence => (second, 1),
        (Some(first), _) => (first, 0),
        (None, Some(second)) => (second, 1),
        (None, None) => return Err(VhdxError::NoHeader),
    };
    if head.log_guid != Guid::default() {
        return Err(VhdxError::Log);
    }
    let is_placed = head.log_offset.is_multiple_of(ALIGNMENT_BYTES)
        && u64::from(head.log_bytes).is_multiple_of(ALIGNMENT_BYTES)
        && (head.log_bytes == 0 || head.log_offset >= ALIGNMENT_BYTES)
        && i64::try_from(head.log_offset).is_ok();
    if is_placed { Ok((head, number)) } else { Err(VhdxError::Region("log")) }
}

/// A GUID of the random kind that depends on another one and on two numbers.
fn next_guid(guid: Guid, sequence: u64, number: u64) -> Guid {
    let mut state = sequence ^ number.rotate_left(32);
    let mut mix = |word: u64| {
        // A round of SplitMix64.
        state = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state = value ^ (value >> 31);
        state
    };
    let (low, high) = (le_u64(&guid, 0).unwrap_or(0), le_u64(&guid, 8).unwrap_or(0));
    mix(low);
    let words = [mix(high), mix(low)];
    let mut next = Guid::default();
    next[..8].copy_from_slice(&words[0].to_le_bytes());
    next[8..].copy_from_slice(&words[1].to_le_bytes());
    (next[7], next[8]) = (next[7] & 0x0f | 0x40, next[8] & 0x3f | 0x80);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn head(sequence: u64) -> Head {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[..4].copy_from_slice(SIGNATURE);
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        (bytes[66], bytes[70], bytes[74]) = (1, 0x10, 0x10);
        let sum = of_structure(&bytes, CHECKSUM_OFFSET).to_le_bytes();
        bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&sum);
        Head::parse(&bytes).unwrap()
    }

    #[test]
    fn the_higher_valid_one_counts() {
        assert_eq!(current([Some(head(4)), Some(head(5))]), Ok((head(5), 1)));
        assert_eq!(current([Some(head(6)), Some(head(5))]), Ok((head(6), 0)));
        assert_eq!(current([None, Some(head(5))]), Ok((head(5), 1)));
        assert_eq!(current([None, None]), Err(VhdxError::NoHeader));
    }

    #[test]
    fn a_log_that_is_not_empty_is_refused() {
        let mut unclean = head(4);
        unclean.log_guid[3] = 1;
        assert_eq!(current([Some(unclean), None]), Err(VhdxError::Log));
        let mut odd = head(4);
        odd.log_offset = 4096;
        assert_eq!(current([Some(odd), None]), Err(VhdxError::Region("log")));
    }

    #[test]
    fn a_renewed_header_is_valid_and_differs() {
        let old = head(u64::MAX - 1);
        let renewed = Head::parse(old.renewed().as_bytes()).unwrap();
        assert_eq!(renewed.sequence, u64::MAX);
        assert_ne!(renewed.as_bytes()[16..32], old.as_bytes()[16..32]);
        assert_ne!(renewed.as_bytes()[16..32], renewed.as_bytes()[32..48]);
        let copy = Head::parse(renewed.repeated().as_bytes()).unwrap();
        assert_eq!(copy.as_bytes()[16..], renewed.as_bytes()[16..]);
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(tail in proptest::collection::vec(any::<u8>(), 80)) {
            let mut bytes = head(1).bytes;
            bytes[8..88].copy_from_slice(&tail);
            prop_assert_eq!(Head::parse(&bytes), None);
            bytes[66..68].copy_from_slice(&[1, 0]);
            let sum = of_structure(&bytes, CHECKSUM_OFFSET).to_le_bytes();
            bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&sum);
            let _ = current([Head::parse(&bytes), None]);
        }
    }
}
