//! Digests of what an overlay shows: equal where a guest reads the same, whatever holds it, and different where it does not.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod support;

use instar_abi::job::{JobHeader, RebaseJob, format, operation, rebase_flag};
use instar_abi::report::{DigestItem, RebaseReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{Shape, empty_image, job, read, write};

const CLUSTER_BYTES: u64 = 4096;
const CLUSTERS: u64 = 700;
const FORMATS: [u32; 2] = [format::QCOW2, format::QCOW2];
/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: u32 = 2;
/// How many of these are not zero.
const PATTERN_BYTES: u64 = 1 << 20;

fn digests(storage: &mut MemoryStorage) -> Vec<DigestItem> {
    digested(storage, rebase_flag::DIGEST_OLD)
}

fn digested(storage: &mut MemoryStorage, flags: u32) -> Vec<DigestItem> {
    let mut bytes = job(&FORMATS, 0, 0);
    bytes.truncate(OPERATION_PART_OFFSET);
    bytes.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::REBASE, ..JobHeader::get(&bytes) }.put(&mut bytes);
    let part =
        RebaseJob { flags, old_layers: 1, join_layer: 2, name_length_bytes: 0, name: [0; 1024], format_name: [0; 16] };
    part.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut report = vec![0; 1 << 20];
    instar_exec::rebase::run(&bytes, storage, &mut report);
    let header = ReportHeader::get(&report);
    assert_eq!(header.outcome, outcome::DONE);
    let payload = &report[ReportHeader::SIZE_BYTES + RebaseReport::SIZE_BYTES..];
    payload[..header.payload_length_bytes as usize].chunks_exact(DigestItem::SIZE_BYTES).map(DigestItem::get).collect()
}

/// What is put: first cluster, how many, from where in the pattern, or zeros.
type Puts = Vec<(u64, u64, u64, bool)>;

/// An overlay on a base that is full of data. Zeros are put as such, or as data.
fn chain(puts: &Puts, zeros_are_data: bool) -> MemoryStorage {
    let image = |has_backing| {
        let size_bytes = CLUSTERS * CLUSTER_BYTES;
        let shape =
            Shape { version: 3, cluster_bits: 12, refcount_order: 4, extended_l2: false, size_bytes, has_backing };
        empty_image(&shape)
    };
    let mut pattern: Vec<u8> = (0..PATTERN_BYTES).map(|at| (at / 512 * 7 + at % 13) as u8 | 1).collect();
    pattern.resize((2 * PATTERN_BYTES) as usize, 0);
    let mut storage = MemoryStorage { devices: vec![image(true), image(false), pattern] };
    let zeros =
        if zeros_are_data { Source::Data { device: PATTERN, host_offset: PATTERN_BYTES } } else { Source::Zero };
    for start in (0..CLUSTERS).step_by(100) {
        put(&mut storage, 1, start, 100, Source::Data { device: PATTERN, host_offset: 0 });
    }
    for (first, count, from, is_zero) in puts {
        let data = Source::Data { device: PATTERN, host_offset: from % 100 * CLUSTER_BYTES };
        put(&mut storage, 0, first % CLUSTERS, count % 100 + 1, if *is_zero { zeros } else { data });
    }
    storage
}

fn put(storage: &mut MemoryStorage, layer: u32, first: u64, count: u64, source: Source) {
    let length_bytes = count.min(CLUSTERS - first) * CLUSTER_BYTES;
    write(storage, &FORMATS, layer, &[Extent { guest_offset: first * CLUSTER_BYTES, length_bytes, source }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_contents_have_equal_digests_and_others_have_not(
        puts in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()), 1..8),
        place in 0..CLUSTERS,
    ) {
        let (mut one, mut other) = (chain(&puts, false), chain(&puts, true));
        let shown = read(&mut one, &FORMATS, 0);
        prop_assert!(shown == read(&mut other, &FORMATS, 0));
        let before = digests(&mut one);
        prop_assert_eq!(&before, &digests(&mut other));
        let mut end = 0;
        for item in &before {
            prop_assert_eq!(item.guest_offset, end);
            end += item.length_bytes;
        }
        prop_assert_eq!(end, CLUSTERS * CLUSTER_BYTES);

        // Another content in one cluster changes the digest of its part and no other.
        put(&mut one, 0, place, 1, Source::Data { device: PATTERN, host_offset: 200 * CLUSTER_BYTES });
        let is_changed = read(&mut one, &FORMATS, 0) != shown;
        let after = digests(&mut one);
        prop_assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            let range = before.guest_offset..before.guest_offset + before.length_bytes;
            prop_assert_eq!(before != after, is_changed && range.contains(&(place * CLUSTER_BYTES)));
        }
    }
}

#[test]
fn what_the_old_chain_shows_and_the_new_one_does_not_is_told_apart() {
    let mut storage = chain(&vec![(3, 5, 7, false)], false);
    let old = digested(&mut storage, rebase_flag::DIGEST_OLD);
    let new = digested(&mut storage, rebase_flag::DIGEST_NEW);
    assert_eq!(old.len(), new.len());
    assert!(old.iter().zip(&new).all(|(old, new)| old.guest_offset == new.guest_offset && old.digest != new.digest));
    // Nothing lies below but where the overlay holds something: there all parts show zeros, whose digest is everywhere the same.
    let mut new: Vec<_> = new.iter().map(|item| item.digest).collect();
    let mut old: Vec<_> = old.iter().map(|item| item.digest).collect();
    let count = old.len();
    for digests in [&mut old, &mut new] {
        digests.sort_unstable();
        digests.dedup();
    }
    assert_eq!((old.len(), new.len()), (count, 2));
}
