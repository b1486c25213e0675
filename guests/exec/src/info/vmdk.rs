//! What is worth telling of a vmdk image: descriptor and extents. Extent files are looked at where the job has them as data
//! devices; otherwise the descriptor's word is passed on, with the names, so that the host can open them.

use alloc::vec::Vec;

use instar_abi::report::{ExtentItem, VmdkItem, error_kind, extent_flag, extent_kind, info_flag, payload_kind};
use instar_formats::vmdk::{Descriptor, ExtentKind, ExtentLine, SparseHeader, VmdkError};

use super::qcow2::copy_name;
use super::{Found, cannot_open};
use crate::job::Job;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::vmdk::{Description, describe, read_sparse_header};

/// The longest image type that is reported, in bytes.
const CREATE_TYPE_BYTES_MAX: usize = 256;

pub(super) fn inspect(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    device: DeviceId,
    found: &mut Found,
) -> Result<(), Failure> {
    let Description { descriptor, sparse, .. } = describe(storage, 0, device)?;
    if let Some(parent) = &descriptor.parent_name {
        let report = &mut found.report;
        report.backing_name_length_bytes = copy_name(parent, &mut report.backing_name);
        // The parent of a vmdk image is always another one.
        report.backing_format_length_bytes = copy_name(b"vmdk", &mut report.backing_format);
        report.flags |= info_flag::HAS_BACKING | info_flag::HAS_BACKING_FORMAT;
    }
    report_image(&descriptor, found)?;
    let extents = match &sparse {
        Some(header) => Vec::from([Extent { item: with_header(OWN, header), name: b"", tables: tables(header) }]),
        None => (0..descriptor.extents.len())
            .map(|index| listed(storage, job, &descriptor, index))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let report = &mut found.report;
    for Extent { item, tables, .. } in &extents {
        let size = report.virtual_size_bytes.checked_add(item.virtual_size_bytes);
        report.virtual_size_bytes =
            size.filter(|size| i64::try_from(*size).is_ok()).ok_or_else(|| cannot_open(VmdkError::SizeTooLarge))?;
        report.l1_entries += tables;
    }
    // An image has a cluster size if all its extents are alike.
    let alike = |extent: &Extent<'_>| (extent.item.cluster_size_bytes, extent.item.flags & extent_flag::COMPRESSED);
    if let Some(first) = extents.first().map(alike)
        && extents.iter().all(|extent| alike(extent) == first)
    {
        report.cluster_size_bytes = first.0;
    }
    for Extent { item, name, .. } in &extents {
        found.push(payload_kind::EXTENT, item, &[name])?;
    }
    Ok(())
}

/// An extent to be reported.
struct Extent<'a> {
    item: ExtentItem,
    name: &'a [u8],
    /// Number of grain tables.
    tables: u64,
}

/// The image's own file as an extent, as far as nothing is known of it.
const OWN: ExtentItem = ExtentItem {
    kind: extent_kind::OWN,
    flags: extent_flag::INSPECTED,
    data_index: u32::MAX,
    name_length_bytes: 0,
    virtual_size_bytes: 0,
    cluster_size_bytes: 0,
};

/// An extent of a descriptor file, and what its own file says of it, if the job has that.
fn listed<'a>(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    descriptor: &'a Descriptor,
    index: usize,
) -> Result<Extent<'a>, Failure> {
    let line = &descriptor.extents[index];
    let data_index = descriptor.file_index(index);
    let mut extent = Extent { item: described(line, data_index), name: &line.name, tables: 0 };
    let Some((device, _)) = job.data(0, data_index) else { return Ok(extent) };
    if line.kind.is_flat() {
        extent.item.flags = extent_flag::INSPECTED;
    } else if line.kind == ExtentKind::Sparse {
        let header = read_sparse_header(storage, 0, device)?;
        extent.item = with_header(extent.item, &header);
        extent.tables = tables(&header);
    }
    Ok(extent)
}

fn tables(header: &SparseHeader) -> u64 {
    header.geometry.directory_entries()
}

fn report_image(descriptor: &Descriptor, found: &mut Found) -> Result<(), Failure> {
    let create_type = &descriptor.create_type;
    if create_type.len() > CREATE_TYPE_BYTES_MAX {
        return Err(Failure::new(error_kind::REFUSED, 0, "the type of the vmdk image is longer than 256 bytes"));
    }
    let extents = descriptor.extents.len();
    let files = (0..extents).map(|extent| descriptor.file_index(extent) + 1).max().unwrap_or(0);
    let item = VmdkItem {
        cid: descriptor.cid_or_none().0,
        parent_cid: descriptor.parent_cid.0,
        extent_count: u32::try_from(extents.max(1)).unwrap_or(u32::MAX),
        file_count: files,
        create_type_length_bytes: u32::try_from(create_type.len()).unwrap_or(0),
        reserved: 0,
    };
    found.push(payload_kind::VMDK, &item, &[create_type])
}

/// An extent as the descriptor has it.
fn described(line: &ExtentLine, data_index: u32) -> ExtentItem {
    ExtentItem {
        kind: match line.kind {
            ExtentKind::Flat => extent_kind::FLAT,
            ExtentKind::Vmfs => extent_kind::VMFS,
            ExtentKind::Sparse => extent_kind::SPARSE,
            ExtentKind::VmfsSparse => extent_kind::VMFS_SPARSE,
            ExtentKind::SeSparse => extent_kind::SE_SPARSE,
        },
        flags: 0,
        data_index,
        name_length_bytes: u32::try_from(line.name.len()).unwrap_or(u32::MAX),
        virtual_size_bytes: line.length_bytes,
        cluster_size_bytes: 0,
    }
}

fn with_header(item: ExtentItem, header: &SparseHeader) -> ExtentItem {
    let compressed = if header.compression.is_some() { extent_flag::COMPRESSED } else { 0 };
    ExtentItem {
        flags: extent_flag::INSPECTED | compressed,
        virtual_size_bytes: header.geometry.capacity_bytes,
        cluster_size_bytes: header.geometry.grain_size_bytes,
        ..item
    }
}
