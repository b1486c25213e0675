//! Whether what must not change has the same digests before copying and afterwards. They come from sandboxes that do not know
//! each other's answers; here they are bytes.

use std::fmt;

use instar_abi::report::DigestItem;
use instar_abi::wire::Wire;

/// The job that digests at first, the one that copies, and the one that digests once more.
const BEFORE: usize = 0;
pub(super) const COPYING: usize = 1;
pub(super) const AFTERWARDS: usize = 2;

/// What has been found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    before: Vec<u8>,
    /// The first part of the disk that reads differently.
    pub(super) changed: Option<Part>,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    guest_offset: u64,
    length_bytes: u64,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guest_offset, length_bytes } = self;
        write!(
            f,
            "within {length_bytes} bytes from byte {guest_offset} of the disk on, it reads differently from before"
        )
    }
}

impl Verdict {
    /// Takes the payload of a job, counted from 0, and says whether the next one may run.
    pub(super) fn goes_on(&mut self, job: usize, payload: &[u8]) -> bool {
        match job {
            BEFORE => payload.clone_into(&mut self.before),
            AFTERWARDS => self.changed = first_difference(&self.before, payload),
            _ => {}
        }
        self.changed.is_none()
    }
}

fn first_difference(before: &[u8], now: &[u8]) -> Option<Part> {
    if before == now {
        return None;
    }
    let items = |bytes: &[u8]| bytes.chunks_exact(DigestItem::SIZE_BYTES).map(DigestItem::get).collect::<Vec<_>>();
    let (before, now) = (items(before), items(now));
    let at = before.iter().zip(&now).position(|(before, now)| before != now).unwrap_or(before.len().min(now.len()));
    let item = before.get(at).or(now.get(at));
    // Lists that differ in nothing but their ends are none that an honest sandbox makes.
    Some(item.map_or(Part { guest_offset: 0, length_bytes: 0 }, |item| Part {
        guest_offset: item.guest_offset,
        length_bytes: item.length_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(items: &[(u64, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; items.len() * DigestItem::SIZE_BYTES];
        for (place, (guest_offset, byte)) in bytes.chunks_exact_mut(DigestItem::SIZE_BYTES).zip(items) {
            DigestItem { guest_offset: *guest_offset, length_bytes: 100, digest: [*byte; 32] }.put(place);
        }
        bytes
    }

    fn found(before: &[u8], now: &[u8]) -> Option<u64> {
        let mut verdict = Verdict::default();
        assert!(verdict.goes_on(0, before) && verdict.goes_on(1, b"repairs"));
        let goes_on = verdict.goes_on(2, now);
        assert_eq!(goes_on, verdict.changed.is_none());
        verdict.changed.map(|part| part.guest_offset)
    }

    #[test]
    fn any_difference_is_found_and_the_first_one_named() {
        let list = payload(&[(100, 1), (300, 2), (400, 3)]);
        assert_eq!(found(&list, &list), None);
        assert_eq!(found(&[], &[]), None);
        assert_eq!(found(&list, &payload(&[(100, 1), (300, 9), (400, 9)])), Some(300));
        assert_eq!(found(&list, &payload(&[(100, 1), (300, 2)])), Some(400));
        assert_eq!(found(&payload(&[(100, 1)]), &list), Some(300));
        assert_eq!(found(&list, b""), Some(100));
        assert_eq!(found(b"", b"x"), Some(0));
    }
}
