//! Commit over random pairs of images in memory: what a guest reads stays, the tables agree with the refcounts, and a
//! crash at any write leaves a chain that still reads the same and that a second run completes.
#![expect(clippy::cast_possible_truncation, reason = "images in tests are small")]

#[path = "support/crashing.rs"]
mod crashing;
mod support;

use crashing::Crashing;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{QCOW2, RAW, Shape, commit, empty_image, read, write};

/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: u32 = 2;
const PATTERN_BYTES: u64 = 1 << 20;

fn pattern() -> Vec<u8> {
    (0..PATTERN_BYTES).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 7) as u8 | 1).collect()
}

#[derive(Clone, Debug)]
struct Write {
    start_permille: u64,
    length_bytes: u64,
    is_zero: bool,
}

impl Write {
    fn extent(&self, size_bytes: u64) -> Option<Extent> {
        let guest_offset = size_bytes * self.start_permille / 1000;
        let length_bytes = self.length_bytes.min(size_bytes - guest_offset);
        let host_offset = self.start_permille * 37 + self.length_bytes;
        let source = if self.is_zero { Source::Zero } else { Source::Data { device: PATTERN, host_offset } };
        (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
    }
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (0..1000u64, prop_oneof![1..600u64, 1..9000u64, 4000..200_000u64], any::<bool>());
    let write =
        write.prop_map(|(start_permille, length_bytes, is_zero)| Write { start_permille, length_bytes, is_zero });
    prop::collection::vec(write, 0..8)
}

fn shape(has_backing: bool) -> impl Strategy<Value = Shape> {
    let extended = prop_oneof![3 => Just(false), 1 => Just(true)];
    (2..=3u32, 9..=16u32, 0..=6u32, extended, 1..700_000u64).prop_map(move |(version, bits, order, extended, size)| {
        Shape {
            version: if extended { 3 } else { version },
            cluster_bits: if extended { bits.max(14) } else { bits },
            refcount_order: if version == 2 && !extended { 4 } else { order },
            extended_l2: extended,
            size_bytes: size.next_multiple_of(512),
            has_backing,
        }
    })
}

/// Overlay, base and pattern; both images hold what was written to them.
fn images(
    overlay: &Shape,
    base: Option<&Shape>,
    raw_bytes: u64,
    above: &[Write],
    below: &[Write],
) -> (MemoryStorage, [u32; 2]) {
    let base_bytes = base.map_or_else(|| vec![0; raw_bytes as usize], empty_image);
    let mut storage = MemoryStorage { devices: vec![empty_image(overlay), base_bytes, pattern()] };
    let formats = [QCOW2, if base.is_some() { QCOW2 } else { RAW }];
    let base_size = base.map_or(raw_bytes, |base| base.size_bytes);
    let extents = |writes: &[Write], size| writes.iter().filter_map(|write| write.extent(size)).collect::<Vec<_>>();
    write(&mut storage, &formats, 1, &extents(below, base_size));
    write(&mut storage, &formats, 0, &extents(above, overlay.size_bytes));
    (storage, formats)
}

/// The longer content, where both hold the same and the rest is zero or the base's own.
fn starts_with(content: &[u8], expected: &[u8]) -> bool {
    content.len() >= expected.len() && content[..expected.len()] == *expected
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_base_receives_what_the_overlay_showed(
        overlay in shape(true),
        base in prop::option::weighted(0.8, shape(false)),
        raw_bytes in 1..600_000u64,
        above in writes(),
        below in writes(),
    ) {
        let (mut storage, formats) = images(&overlay, base.as_ref(), raw_bytes.next_multiple_of(512), &above, &below);
        let before = read(&mut storage, &formats, 0);
        let base_before = read(&mut storage, &formats, 1);
        commit(&mut storage, &formats).unwrap();
        prop_assert!(read(&mut storage, &formats, 0) == before, "the overlay reads differently");
        let base_after = read(&mut storage, &formats, 1);
        prop_assert!(starts_with(&base_after, &before), "the base lacks what the overlay showed");
        if base_before.len() > before.len() {
            prop_assert!(base_after[before.len()..] == base_before[before.len()..], "bytes beyond the overlay changed");
        }
        // Opening for writing takes the census, which fails on any refcount that is too low; nothing may be left to commit.
        let again = commit(&mut storage, &formats).unwrap();
        prop_assert_eq!(again.bytes_committed, 0);
    }

    #[test]
    fn a_crash_loses_nothing_and_a_second_run_completes(
        overlay in shape(true),
        base in prop::option::weighted(0.8, shape(false)),
        above in writes(),
        below in writes(),
        crash_permille in 0..1000u64,
        seed in any::<u64>(),
    ) {
        let raw_bytes = overlay.size_bytes;
        let (storage, formats) = images(&overlay, base.as_ref(), raw_bytes, &above, &below);
        let before = read(&mut storage.clone(), &formats, 0);
        let mut counting = Crashing::new(storage.clone(), u64::MAX, seed);
        commit(&mut counting, &formats).unwrap();
        prop_assume!(counting.requests != 0);
        let mut crashing = Crashing::new(storage, counting.requests * crash_permille / 1000, seed);
        commit(&mut crashing, &formats).unwrap_err();
        let mut survived = crashing.after_the_crash();
        prop_assert!(read(&mut survived, &formats, 0) == before, "the overlay reads differently after the crash");
        assert_base_is_clean(&survived);
        commit(&mut survived, &formats).unwrap();
        prop_assert!(read(&mut survived, &formats, 0) == before, "the overlay reads differently after the second run");
        prop_assert!(starts_with(&read(&mut survived, &formats, 1), &before), "the second run left something out");
    }
}

/// An overlay that was being emptied may be marked dirty; a base never is.
fn assert_base_is_clean(storage: &MemoryStorage) {
    let base = &storage.devices[1];
    assert!(
        base.len() < 80 || base[..4] != *b"QFI\xfb" || base[7] < 3 || base[79] & 1 == 0,
        "the base is marked dirty"
    );
}
