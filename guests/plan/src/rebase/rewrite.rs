//! How a first cluster is replaced on a medium that writes single sectors and no more: at every moment it is the old header or
//! the new one.

use alloc::vec::Vec;
use core::ops::Range;

use instar_formats::qcow2::extension::extensions_end;
use instar_formats::qcow2::{EncodeError, FirstCluster, Header, Layout, encode_first_cluster_as};

use crate::planted::{self, Bug};

/// What the medium writes as a whole, in bytes. The fields that name the backing file lie in the first such sector.
const SECTOR_BYTES: usize = 512;

/// Bytes that go into the first cluster. The next one waits until they are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderWrite {
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// Plans how the first cluster `current`, which says `old`, becomes one that says `new`.
///
/// Mostly the extensions stay behind the first sector what they are, and the new backing name fits beside the old one: it is
/// written, and then the first sector. Otherwise the old header first gives up what its extensions have behind the first sector,
/// which are names of feature bits, and its backing name is put out of the way; then everything behind that sector is written;
/// then the first sector. An image that has no room for that, or needs more of its extensions than one sector, is written in
/// one piece.
///
/// # Errors
/// If the new header does not fit.
pub fn plan_header_writes(current: &[u8], old: &Header, new: &Header) -> Result<Vec<HeaderWrite>, EncodeError> {
    let wanted = encode_first_cluster_as(new, Layout::default())?;
    if planted::is(Bug::HeaderTorn) {
        return Ok(Vec::from([HeaderWrite { offset: 0, bytes: wanted.bytes }]));
    }
    let guarded = beside(current, old, new, &wanted).or_else(|| making_room(current, old, &wanted));
    Ok(guarded.unwrap_or_else(|| Vec::from([HeaderWrite { offset: 0, bytes: wanted.bytes }])))
}

/// The writes where the old header keeps all that it needs behind the first sector until that sector changes; `None` where the
/// new header would change some of it, whether its name lies in its usual place or behind the old name.
fn beside(current: &[u8], old: &Header, new: &Header, wanted: &FirstCluster) -> Option<Vec<HeaderWrite>> {
    let recorded = old_name(old);
    let needed = [SECTOR_BYTES..extensions_end(current, old)?, recorded.clone()];
    let behind = recorded.end.max(wanted.extensions_end).max(SECTOR_BYTES).next_multiple_of(8);
    [None, Some(behind)].into_iter().find_map(|name_offset| {
        let mut planned = encode_first_cluster_as(new, Layout { name_offset, ..Layout::default() }).ok()?;
        if planned.bytes.len() != current.len() || !needed.iter().all(|range| is_apart(range, current, &planned)) {
            return None;
        }
        for range in &needed {
            let kept = range.start.max(SECTOR_BYTES)..range.end;
            if !kept.is_empty() {
                planned.bytes.get_mut(kept.clone())?.copy_from_slice(current.get(kept)?);
            }
        }
        let mut writes = Vec::new();
        if let Some(changed) = changed(&current[SECTOR_BYTES..], &planned.bytes[SECTOR_BYTES..]) {
            let changed = SECTOR_BYTES + changed.start..SECTOR_BYTES + changed.end;
            writes.push(HeaderWrite { offset: changed.start as u64, bytes: planned.bytes[changed].to_vec() });
        }
        writes.push(HeaderWrite { offset: 0, bytes: planned.bytes.get(..SECTOR_BYTES)?.to_vec() });
        Some(writes)
    })
}

/// The writes in their order where the old header has to make room; `None` where that cannot be guarded.
fn making_room(current: &[u8], old: &Header, wanted: &FirstCluster) -> Option<Vec<HeaderWrite>> {
    let new_sector = wanted.bytes.get(..SECTOR_BYTES)?.to_vec();
    let mut writes = Vec::new();
    let mut rest = wanted.bytes.clone();
    if current.len() != rest.len() {
        return None;
    }
    let recorded = old_name(old);
    let name = current.get(recorded.clone())?;
    let mut place = recorded.clone();
    if !is_apart(&recorded, current, wanted) {
        // Behind everything that is there or will be. The next rewrite clears it away.
        let start = recorded.end.max(wanted.extensions_end).max(wanted.name.end).max(SECTOR_BYTES).next_multiple_of(8);
        place = start..start + name.len();
        if place.end > current.len() {
            return None;
        }
        writes.push(HeaderWrite { offset: place.start as u64, bytes: name.to_vec() });
    }
    (place.start..).zip(name).skip_while(|(at, _)| *at < SECTOR_BYTES).for_each(|(at, byte)| rest[at] = *byte);
    if let Some(changed) = changed(&current[SECTOR_BYTES..], &rest[SECTOR_BYTES..]) {
        let short = shortened(name, &place, old)?;
        if short != current[..SECTOR_BYTES] {
            writes.push(HeaderWrite { offset: 0, bytes: short });
        }
        let changed = SECTOR_BYTES + changed.start..SECTOR_BYTES + changed.end;
        writes.push(HeaderWrite { offset: changed.start as u64, bytes: rest[changed].to_vec() });
    }
    writes.push(HeaderWrite { offset: 0, bytes: new_sector });
    Some(writes)
}

/// Where the old backing name lies; empty if there is none.
fn old_name(old: &Header) -> Range<usize> {
    let length = old.backing_name.as_ref().map_or(0, Vec::len);
    match usize::try_from(old.backing_name_offset) {
        Ok(start) if length != 0 => start..start.saturating_add(length),
        _ => 0..0,
    }
}

/// Whether the new first cluster needs nothing of a place behind the first sector, or has the same bytes there.
fn is_apart(place: &Range<usize>, current: &[u8], wanted: &FirstCluster) -> bool {
    let start = place.start.max(SECTOR_BYTES);
    [SECTOR_BYTES..wanted.extensions_end, wanted.name.clone()].iter().all(|used| {
        let shared = used.start.max(start)..used.end.min(place.end);
        shared.is_empty() || wanted.bytes[shared.clone()] == current[shared]
    })
}

/// The part that differs.
fn changed(current: &[u8], wanted: &[u8]) -> Option<Range<usize>> {
    let differs = |at: &usize| current[*at] != wanted[*at];
    let first = (0..current.len()).find(differs)?;
    let last = (0..current.len()).rev().find(differs)?;
    Some(first..last + 1)
}

/// The old first sector without need of anything in the others but the old name, which lies at `place`.
fn shortened(name: &[u8], place: &Range<usize>, old: &Header) -> Option<Vec<u8>> {
    let name_offset = (!name.is_empty()).then_some(place.start);
    let short = encode_first_cluster_as(old, Layout { without_feature_names: true, name_offset }).ok()?;
    (short.extensions_end <= SECTOR_BYTES).then(|| short.bytes[..SECTOR_BYTES].to_vec())
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "numbers in tests are small")]
mod tests {
    use super::*;
    use crate::rebase::{NewBacking, plan_header};
    use alloc::vec;
    use instar_formats::qcow2::{Access, encode_first_cluster};
    use proptest::prelude::*;

    /// The first cluster of a small image: 64 KiB clusters, 1 MiB.
    fn image(version: u32, cluster_bits: u32) -> Header {
        let mut bytes = vec![0; 1 << cluster_bits];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb");
        put(4, &version.to_be_bytes());
        put(20, &cluster_bits.to_be_bytes());
        put(24, &(1u64 << 20).to_be_bytes());
        put(36, &128u32.to_be_bytes());
        put(40, &(3u64 << cluster_bits).to_be_bytes());
        put(48, &(1u64 << cluster_bits).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        if version >= 3 {
            put(96, &4u32.to_be_bytes());
            put(100, &104u32.to_be_bytes());
        }
        Header::parse(&bytes, Access::Inspect).unwrap()
    }

    /// What a header says of its backing file, and whether the rest is as it was.
    fn says(bytes: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>, u64) {
        let header = Header::parse(bytes, Access::ReadWrite).unwrap();
        (header.backing_name, header.extensions.backing_format, header.l1_offset)
    }

    #[test]
    fn a_rename_takes_two_writes_and_names_do_not_wander_off() {
        let mut current = encode_first_cluster(&image(3, 16)).unwrap();
        for (letter, length) in (b'a'..).zip([40, 60, 50, 70, 10, 70, 60]) {
            let name = vec![letter; length];
            let old = Header::parse(&current, Access::ReadWrite).unwrap();
            let new = plan_header(&old, &NewBacking { name: &name, format_name: b"qcow2" }).unwrap();
            let writes = plan_header_writes(&current, &old, &new).unwrap();
            assert_eq!(writes.len(), 2, "{length}");
            for HeaderWrite { offset, bytes } in writes {
                current[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            assert_eq!(says(&current).0, Some(name));
            let place = Header::parse(&current, Access::ReadWrite).unwrap().backing_name_offset;
            assert!(place < 1024, "{place}");
        }
    }

    proptest! {
        #[test]
        fn torn_at_any_sector_it_is_the_old_header_or_the_new_one(
            version in 2..=3u32,
            cluster_bits in 9..17u32,
            names in proptest::collection::vec((0..420usize, 0..2usize), 2..6),
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut current = encode_first_cluster(&image(version, cluster_bits)).unwrap();
            for (length, format) in names {
                let name = vec![b'a' + (length % 26) as u8; length];
                let backing = NewBacking { name: &name, format_name: [&b"raw"[..], b"parallels"][format] };
                let old = Header::parse(&current, Access::ReadWrite).unwrap();
                let new = plan_header(&old, &backing).unwrap();
                let Ok(writes) = plan_header_writes(&current, &old, &new) else { continue };
                let before = says(&current);
                let after = (
                    (length != 0).then(|| name.clone()),
                    (length != 0).then(|| backing.format_name.to_vec()),
                    old.l1_offset,
                );
                let mut now = current.clone();
                for write in &writes {
                    let offset = write.offset as usize;
                    for _ in 0..8 {
                        let mut torn = now.clone();
                        for at in 0..write.bytes.len() {
                            if at == 0 || (offset + at).is_multiple_of(SECTOR_BYTES) {
                                state ^= state << 13;
                                state ^= state >> 7;
                                state ^= state << 17;
                            }
                            if state & 1 == 0 {
                                torn[offset + at] = write.bytes[at];
                            }
                        }
                        let is_guarded = writes.len() > 1 || write.bytes.len() <= SECTOR_BYTES;
                        if is_guarded {
                            let said = says(&torn);
                            prop_assert!(said == before || said == after, "{said:?}");
                        } else {
                            // Only where the extensions or both names do not fit.
                            prop_assert!(cluster_bits < 12);
                        }
                    }
                    now[offset..offset + write.bytes.len()].copy_from_slice(&write.bytes);
                }
                prop_assert_eq!(says(&now), after);
                current = now;
            }
        }
    }
}
