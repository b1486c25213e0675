//! Clusters that the host has packed and unpacked, where it says that it can. Whatever goes wrong is left to the caller, who does it alone
//! then and learns what it is.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::block::{
    MAX_CLUSTER_BYTES, MAX_PACK_BYTES, MAX_RECORDS, MAX_UNPACK_RECORDS, PackRecord, PackedLength, UnpackRecord, codec,
    kind,
};
use instar_abi::job::device_flag;
use instar_abi::wire::Wire;
use instar_exec::{Codec, Operation, StorageError, UnpackSegment};

use super::{Data, Device, Queued, SharedMemory, Transport, request, short};

/// Where in their memory the lengths of packed clusters come, behind the clusters; the packed bytes follow them.
const PACKED_AT: usize = (PackRecord::SIZE_BYTES + MAX_PACK_BYTES as usize).next_multiple_of(PackedLength::SIZE_BYTES);
/// Length of that memory.
const PACKING_BYTES: usize = PACKED_AT + MAX_RECORDS as usize * PackedLength::SIZE_BYTES + MAX_PACK_BYTES as usize;

impl Device {
    /// Has the host unpack clusters to this device; `false` where it does not, or could not. Settles first, and afterwards.
    pub(in super::super) fn unpack(
        &mut self,
        t: &mut dyn Transport,
        segments: &[UnpackSegment],
    ) -> Result<bool, StorageError> {
        if t.device_state(self.number).flags & device_flag::CODECS == 0 {
            return Ok(false);
        }
        self.head = None;
        self.settle(t)?;
        for segments in segments.chunks(MAX_UNPACK_RECORDS as usize) {
            let mut end = self.length_bytes;
            for (place, segment) in segments.iter().enumerate() {
                let Some(record) = unpack_record(segment) else { return Ok(false) };
                end = end.max(self.end(Operation::Copy, segment.target_offset, segment.length_bytes)?);
                self.records().put(place * UnpackRecord::SIZE_BYTES, &record);
            }
            let mut header = request(kind::UNPACK, 0, 0);
            header.record_count = short(segments.len());
            let data = Data {
                address: self.records().address(0),
                length_bytes: short(segments.len() * UnpackRecord::SIZE_BYTES),
                device_writes: false,
            };
            self.push(t, Operation::Write, segments[0].target_offset, header, Some(data))?;
            // Whatever is wrong shows again when it is done without the host.
            if self.settle(t).is_err() {
                return Ok(false);
            }
            self.length_bytes = end;
        }
        Ok(true)
    }

    /// Has the host pack clusters; `None` where it does not, or could not. Settles first, and afterwards.
    pub(in super::super) fn pack(
        &mut self,
        t: &mut dyn Transport,
        codec: Codec,
        cluster_bytes: usize,
        clusters: &[u8],
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, StorageError> {
        let too_large = cluster_bytes == 0 || cluster_bytes > MAX_CLUSTER_BYTES as usize;
        if t.device_state(self.number).flags & device_flag::CODECS == 0 || too_large {
            return Ok(None);
        }
        self.settle(t)?;
        let most = (MAX_PACK_BYTES as usize / cluster_bytes).min(MAX_RECORDS as usize);
        let mut packed = Vec::with_capacity(clusters.len() / cluster_bytes);
        for clusters in clusters.chunks(most * cluster_bytes) {
            let count = clusters.len() / cluster_bytes;
            let record = PackRecord { codec: codec_number(codec), cluster_bytes: short(cluster_bytes) };
            let shared = self.packing.get_or_insert_with(|| SharedMemory::for_data(PACKING_BYTES));
            shared.put(0, &record);
            shared.write(PackRecord::SIZE_BYTES, clusters);
            let list = Data {
                address: shared.address(0),
                length_bytes: short(PackRecord::SIZE_BYTES + clusters.len()),
                device_writes: false,
            };
            let places = PACKED_AT + count * PackedLength::SIZE_BYTES;
            let room = Data {
                address: shared.address(PACKED_AT),
                length_bytes: short(places - PACKED_AT + clusters.len()),
                device_writes: true,
            };
            let mut header = request(kind::PACK, 0, 0);
            header.record_count = short(count);
            self.ring.push_with_room(&header, list, room);
            self.queued.push(Queued { operation: Operation::Write, offset: 0 });
            // Whatever is wrong shows again when it is done without the host.
            if self.ring(t).is_err() {
                return Ok(None);
            }
            let Some(shared) = &self.packing else { return Ok(None) };
            packed.extend((0..count).map(|index| {
                let length = shared.get::<PackedLength>(PACKED_AT + index * PackedLength::SIZE_BYTES).bytes as usize;
                (1..cluster_bytes).contains(&length).then(|| {
                    let mut bytes = vec![0; length];
                    shared.read(places + index * cluster_bytes, &mut bytes);
                    bytes
                })
            }));
        }
        Ok(Some(packed))
    }
}

/// A piece as the host takes it; `None` for what is too large for that.
fn unpack_record(segment: &UnpackSegment) -> Option<UnpackRecord> {
    let source = &segment.source;
    let bounded = |bytes: u64| u32::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_CLUSTER_BYTES);
    Some(UnpackRecord {
        target_offset_bytes: segment.target_offset,
        source_offset_bytes: source.host_offset,
        source_device: source.device,
        packed_bytes: bounded(source.length_bytes)?,
        cluster_bytes: bounded(source.cluster_size_bytes)?,
        skip_bytes: bounded(source.offset_in_cluster)?,
        length_bytes: bounded(segment.length_bytes)?,
        codec: codec_number(source.codec),
    })
}

fn codec_number(codec: Codec) -> u32 {
    match codec {
        Codec::Deflate => codec::DEFLATE,
        Codec::Zlib => codec::ZLIB,
        Codec::Zstd => codec::ZSTD,
    }
}
