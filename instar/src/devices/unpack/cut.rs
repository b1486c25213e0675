//! Cuts lists of compressed clusters into what a machine takes in one go.

use instar_abi::block::UnpackRecord;
use instar_abi::codec_machine::{MAX_ENTRIES, PACKED_BYTES, UNPACKED_BYTES};

/// About how much is unpacked in one go, so that several machines can share a list: a place to write, and a read of a processor's
/// cache.
const BATCH_BYTES: u64 = 1 << 20;

/// A batch that [`cut`] has made: the records, and the number of the first one in its list.
#[derive(Clone, Copy, Debug)]
pub(in crate::devices) struct Clusters<'r> {
    pub(in crate::devices) first: usize,
    pub(in crate::devices) records: &'r [UnpackRecord],
    /// Up to where the list goes on from the last of them on the target, without a gap.
    pub(in crate::devices) stretch_end: u64,
}

/// Cuts a list into batches; each is told with the number of bytes to unpack.
pub(in crate::devices) fn cut<'r>(records: &'r [UnpackRecord], mut act: impl FnMut(Clusters<'r>, u64)) {
    let mut at = 0;
    let mut stretch = Stretch::default();
    while let Some(first) = records.get(at) {
        let (mut end, mut entries) = (at + 1, 1);
        let (mut packed, mut unpacked) = (u64::from(first.packed_bytes), u64::from(first.cluster_bytes));
        while let Some(next) = records.get(end) {
            if !is_same_cluster(&records[end - 1], next) {
                entries += 1;
                packed += u64::from(next.packed_bytes);
                unpacked += u64::from(next.cluster_bytes);
                if entries > MAX_ENTRIES || packed > PACKED_BYTES || unpacked > BATCH_BYTES.min(UNPACKED_BYTES) {
                    unpacked -= u64::from(next.cluster_bytes);
                    break;
                }
            }
            end += 1;
        }
        stretch.reach(records, end - 1);
        act(Clusters { first: at, records: &records[at..end], stretch_end: stretch.end_offset }, unpacked);
        at = end;
    }
}

/// Records whose bytes lie one behind the other on the target.
#[derive(Default)]
struct Stretch {
    /// How many records of the list lie in it or in front of it.
    count: usize,
    /// Where the last one's bytes end.
    end_offset: u64,
}

impl Stretch {
    /// Becomes the one that a record lies in; the records come in their order.
    fn reach(&mut self, records: &[UnpackRecord], record: usize) {
        if record < self.count {
            return;
        }
        self.count = record + 1;
        self.end_offset = end_of(&records[record]);
        while let Some(next) = records.get(self.count).filter(|next| next.target_offset_bytes == self.end_offset) {
            self.end_offset = end_of(next);
            self.count += 1;
        }
    }
}

/// Where a record's bytes end on the target.
fn end_of(record: &UnpackRecord) -> u64 {
    record.target_offset_bytes.saturating_add(record.length_bytes.into())
}

/// Whether two records are about parts of one cluster.
pub(super) fn is_same_cluster(left: &UnpackRecord, right: &UnpackRecord) -> bool {
    let cluster = |record: &UnpackRecord| {
        let UnpackRecord { source_device, source_offset_bytes, packed_bytes, cluster_bytes, codec, .. } = *record;
        (source_device, source_offset_bytes, packed_bytes, cluster_bytes, codec)
    };
    cluster(left) == cluster(right)
}

#[cfg(test)]
mod tests {
    use instar_abi::block::codec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_record_is_in_one_batch_that_a_machine_can_hold(
            shapes in proptest::collection::vec((0u64..4, 0u32..3 << 19, 1u32..=2 << 20, 0u64..3, 1u32..9), 0..400),
        ) {
            let mut target_offset_bytes = 0;
            let mut record = |(source_offset_bytes, packed_bytes, cluster_bytes, gap, length_bytes)| {
                let record = UnpackRecord {
                    target_offset_bytes: target_offset_bytes + gap / 2,
                    source_offset_bytes,
                    source_device: 0,
                    packed_bytes,
                    cluster_bytes,
                    skip_bytes: 0,
                    length_bytes,
                    codec: codec::ZSTD,
                };
                target_offset_bytes = end_of(&record);
                record
            };
            let records: Vec<UnpackRecord> = shapes.into_iter().flat_map(|shape| [record(shape), record(shape)]).collect();
            let mut next = 0;
            cut(&records, |Clusters { first, records: batch, stretch_end }, unpacked_bytes| {
                assert_eq!(first, next);
                next += batch.len();
                let clusters: Vec<&UnpackRecord> = batch.chunk_by(is_same_cluster).map(|parts| &parts[0]).collect();
                let sum = |bytes: fn(&UnpackRecord) -> u32| clusters.iter().map(|it| u64::from(bytes(it))).sum::<u64>();
                assert!(clusters.len() <= MAX_ENTRIES as usize && sum(|it| it.packed_bytes) <= PACKED_BYTES);
                assert!(sum(|it| it.cluster_bytes) <= UNPACKED_BYTES);
                assert_eq!(sum(|it| it.cluster_bytes), unpacked_bytes);
                let after = records[next - 1..].windows(2).take_while(|pair| end_of(&pair[0]) == pair[1].target_offset_bytes);
                assert_eq!(stretch_end, end_of(&records[next - 1 + after.count()]));
            });
            prop_assert_eq!(next, records.len());
        }
    }
}
