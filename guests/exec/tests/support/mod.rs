//! What the tests of this crate share: images built in memory, jobs, and a reader of whole chains.
#![allow(clippy::cast_possible_truncation, reason = "images in tests are small")]
#![allow(dead_code, reason = "each test program uses a part of this, and none of them all")]

use instar_abi::job::{
    ABI_VERSION, CommitJob, DeviceEntry, JOB_MAGIC, JobHeader, commit_flag, device_flag, format, operation, role,
};
use instar_abi::report::{CommitReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::job::{Job, OPERATION_PART_OFFSET};
use instar_exec::layer::{Layer, map_chain};
use instar_exec::memory::MemoryStorage;
use instar_exec::open::{open_layers, open_target};
use instar_exec::{DeviceId, Storage, unpack};
use instar_formats::qcow2::{CompressionType, CryptMethod, Extensions, Header, encode_first_cluster, feature};
use instar_plan::extent::{Extent, Source};

/// What an image is like before anything is written to it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) refcount_order: u32,
    pub extended_l2: bool,
    pub(crate) size_bytes: u64,
    pub(crate) has_backing: bool,
}

/// An empty qcow2 image: header, refcount table, refcount block, L1 table, each at the start of a cluster.
pub(crate) fn empty_image(shape: &Shape) -> Vec<u8> {
    let size = 1u64 << shape.cluster_bits;
    let mut header = Header {
        version: shape.version,
        backing_name_offset: 0,
        backing_name: shape.has_backing.then(|| b"base".to_vec()),
        cluster_bits: shape.cluster_bits,
        virtual_size_bytes: shape.size_bytes,
        crypt_method: CryptMethod::None,
        l1_entries: 0,
        l1_offset: 3 * size,
        refcount_table_offset: size,
        refcount_table_clusters: 1,
        snapshot_count: 0,
        snapshots_offset: 0,
        incompatible_features: if shape.extended_l2 { feature::EXTENDED_L2 } else { 0 },
        compatible_features: 0,
        autoclear_features: 0,
        refcount_order: shape.refcount_order,
        header_length_bytes: 112,
        compression_type: CompressionType::Zlib,
        unknown_fields: Vec::new(),
        extensions: Extensions::default(),
    };
    header.l1_entries = u32::try_from(header.l1_entries_needed()).unwrap();
    let clusters = 3 + (u64::from(header.l1_entries) * 8).div_ceil(size);
    let mut bytes = encode_first_cluster(&header).unwrap();
    bytes.resize(usize::try_from(clusters * size).unwrap(), 0);
    let block = usize::try_from(2 * size).unwrap();
    bytes[block / 2..][..8].copy_from_slice(&(2 * size).to_be_bytes());
    for cluster in 0..usize::try_from(clusters).unwrap() {
        instar_formats::qcow2::refcount::write(&mut bytes[block..], shape.refcount_order, cluster, 1);
    }
    bytes
}

/// A job with one image device a layer, topmost first; all are writable.
pub(crate) fn job(formats: &[u32], base_layer: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; OPERATION_PART_OFFSET + CommitJob::SIZE_BYTES];
    let count = u32::try_from(formats.len()).unwrap();
    let header = JobHeader {
        magic: JOB_MAGIC,
        abi_version: ABI_VERSION,
        operation: operation::COMMIT,
        device_count: count,
        layer_count: count,
    };
    header.put(&mut bytes);
    for (layer, format) in (0..).zip(formats) {
        let entry = DeviceEntry {
            role: role::IMAGE,
            layer,
            index: 0,
            format: *format,
            flags: device_flag::WRITABLE,
            reserved: 0,
        };
        entry.put(&mut bytes[JobHeader::SIZE_BYTES + layer as usize * DeviceEntry::SIZE_BYTES..]);
    }
    CommitJob { base_layer, flags }.put(&mut bytes[OPERATION_PART_OFFSET..]);
    bytes
}

/// Runs a commit into layer 1; `Err` holds the text of the failure.
pub(crate) fn commit(storage: &mut dyn Storage, formats: &[u32]) -> Result<CommitReport, String> {
    commit_with(storage, formats, commit_flag::EMPTY_OVERLAY)
}

/// As [`commit`], with other flags.
pub(crate) fn commit_with(storage: &mut dyn Storage, formats: &[u32], flags: u32) -> Result<CommitReport, String> {
    let mut report = vec![0; 128 << 10];
    instar_exec::commit::run(&job(formats, 1, flags), storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome == outcome::DONE {
        return Ok(CommitReport::get(&report[ReportHeader::SIZE_BYTES..]));
    }
    Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned())
}

/// Puts extents into the image of `layer`, with nothing below it.
pub(crate) fn write(storage: &mut MemoryStorage, formats: &[u32], layer: u32, extents: &[Extent]) {
    let bytes = job(formats, 1, 0);
    let job = Job::parse(&bytes).unwrap();
    let mut below = open_layers(storage, &job, layer + 1..job.layer_count).unwrap();
    let mut target = open_target(storage, &job, layer).unwrap();
    for extent in extents {
        let window = target.window_bytes();
        let mut start = extent.guest_offset;
        while start < extent.end() {
            let end = (start / window * window + window).min(extent.end());
            target.put(storage, &mut below, &[extent.clipped(start, end).unwrap()]).unwrap();
            start = end;
        }
        target.make_visible(storage).unwrap();
    }
}

/// What a guest reads from the chain that starts at layer `top`.
pub(crate) fn read(storage: &mut MemoryStorage, formats: &[u32], top: u32) -> Vec<u8> {
    let bytes = job(formats, 1, 0);
    let job = Job::parse(&bytes).unwrap();
    let mut layers: Vec<Box<dyn Layer>> = open_layers(storage, &job, top..job.layer_count).unwrap();
    let size_bytes = layers[0].size_bytes();
    let mut content = vec![0; usize::try_from(size_bytes).unwrap()];
    for extent in map_chain(&mut layers, storage, 0, size_bytes).unwrap() {
        let range = extent.guest_offset as usize..extent.end() as usize;
        match extent.source {
            Source::Absent | Source::Zero => {}
            Source::Data { device, host_offset } => {
                storage.read(DeviceId(device), host_offset, &mut content[range]).unwrap();
            }
            Source::Compressed(source) => {
                let unpacked = unpack::cluster(storage, &source).unwrap();
                let start = source.offset_in_cluster as usize;
                content[range.clone()].copy_from_slice(&unpacked[start..start + range.len()]);
            }
        }
    }
    content
}

/// Formats by their numbers, for the calls above.
pub(crate) const QCOW2: u32 = format::QCOW2;
/// As [`QCOW2`].
pub(crate) const RAW: u32 = format::RAW;
