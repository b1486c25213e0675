//! What is worth telling of a qcow2 image: header, internal snapshots, persistent bitmaps, encryption.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::job::{MAX_NAME_BYTES, format};
use instar_abi::report::{BitmapItem, InfoReport, SnapshotItem, error_kind, info_flag, payload_kind};
use instar_formats::qcow2::bitmap::{self, BitmapDirectory, BitmapError};
use instar_formats::qcow2::header::PREFIX_BYTES;
use instar_formats::qcow2::snapshot::{self, SnapshotTable};
use instar_formats::qcow2::{Access, BitmapsPointer, CompressionType, CryptMethod, Header};
use instar_formats::raw::SECTOR_BYTES;

use super::window::Window;
use super::{Found, cannot_open, luks};
use crate::qcow2::header_failure;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

pub(super) fn inspect(storage: &mut dyn Storage, device: DeviceId, found: &mut Found) -> Result<(), Failure> {
    let header = read_header(storage, device)?;
    if header.extensions.data_file_name.as_ref().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
        let text = "the name of the external data file is longer than 1024 bytes";
        return Err(Failure::new(error_kind::REFUSED, 0, text));
    }
    describe(&header, &mut found.report);
    if let Some(pointer) = header.extensions.crypto_header {
        luks::inspect(storage, device, pointer, found)?;
    }
    report_snapshots(storage, device, &header, found)?;
    if let Some(pointer) = header.extensions.bitmaps {
        report_bitmaps(storage, device, &header, pointer, found)?;
    }
    Ok(())
}

fn read_header(storage: &mut dyn Storage, device: DeviceId) -> Result<Header, Failure> {
    let refused = |error| header_failure(0, &error);
    let mut first_cluster = vec![0; PREFIX_BYTES];
    storage.read(device, 0, &mut first_cluster).map_err(|error| Failure::storage(0, error))?;
    let needed_bytes = Header::needed_bytes(&first_cluster).map_err(refused)?;
    if needed_bytes > first_cluster.len() {
        first_cluster.resize(needed_bytes, 0);
        storage.read(device, 0, &mut first_cluster).map_err(|error| Failure::storage(0, error))?;
    }
    Header::parse(&first_cluster, Access::Inspect).map_err(refused)
}

fn describe(header: &Header, report: &mut InfoReport) {
    report.format = format::QCOW2;
    report.version = header.version;
    report.refcount_bits = header.refcount_bits();
    report.virtual_size_bytes = header.virtual_size_bytes / SECTOR_BYTES * SECTOR_BYTES;
    report.cluster_size_bytes = header.cluster_size_bytes();
    report.l1_entries = header.l1_entries.into();
    let extensions = &header.extensions;
    for (is_set, flag) in [
        (header.is_dirty(), info_flag::DIRTY),
        (header.is_corrupt(), info_flag::CORRUPT),
        (header.has_lazy_refcounts(), info_flag::LAZY_REFCOUNTS),
        (header.has_extended_l2(), info_flag::EXTENDED_L2),
        (header.compression_type == CompressionType::Zstd, info_flag::ZSTD),
        (header.has_external_data_file(), info_flag::DATA_FILE),
        (header.has_raw_external_data_file(), info_flag::DATA_FILE_RAW),
        (header.crypt_method == CryptMethod::Luks, info_flag::ENCRYPT_LUKS),
        (header.crypt_method == CryptMethod::Aes, info_flag::ENCRYPT_AES),
        (header.backing_name.is_some(), info_flag::HAS_BACKING),
        (extensions.backing_format.is_some(), info_flag::HAS_BACKING_FORMAT),
        (extensions.data_file_name.is_some(), info_flag::HAS_DATA_FILE_NAME),
    ] {
        if is_set {
            report.flags |= flag;
        }
    }
    let backing_name = header.backing_name.as_deref().unwrap_or_default();
    report.backing_name_length_bytes = copy_name(backing_name, &mut report.backing_name);
    let backing_format = extensions.backing_format.as_deref().unwrap_or_default();
    report.backing_format_length_bytes = copy_name(backing_format, &mut report.backing_format);
    let data_file_name = extensions.data_file_name.as_deref().unwrap_or_default();
    report.data_file_name_length_bytes = copy_name(data_file_name, &mut report.data_file_name);
}

/// Copies as much of a name as fits and gives its length.
pub(super) fn copy_name(name: &[u8], field: &mut [u8]) -> u32 {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    u32::try_from(length).unwrap_or(0)
}

/// The length of a name from the metadata: it comes from a 16-bit field.
fn name_length(name: &[u8]) -> u32 {
    u32::try_from(name.len()).unwrap_or(0)
}

fn report_snapshots(
    storage: &mut dyn Storage,
    device: DeviceId,
    header: &Header,
    found: &mut Found,
) -> Result<(), Failure> {
    if header.snapshot_count == 0 {
        return Ok(());
    }
    let mut table = SnapshotTable::new(header);
    let mut window = Window::new(storage, device);
    let mut needed = 0;
    loop {
        let bytes = window.at(table.next_offset(), needed)?;
        match table.step(bytes).map_err(cannot_open)? {
            snapshot::Step::Entry(snapshot) => {
                needed = 0;
                let item = SnapshotItem {
                    date_seconds: snapshot.date_seconds,
                    date_nanoseconds: snapshot.date_nanoseconds,
                    vm_clock_nanoseconds: snapshot.vm_clock_nanoseconds,
                    vm_state_size_bytes: snapshot.vm_state_size_bytes,
                    icount: snapshot.icount.unwrap_or(u64::MAX),
                    id_length_bytes: name_length(&snapshot.id),
                    name_length_bytes: name_length(&snapshot.name),
                };
                found.push(payload_kind::SNAPSHOT, &item, &[&snapshot.id, &snapshot.name])?;
            }
            snapshot::Step::NeedBytes(bytes) => needed = bytes,
            snapshot::Step::End => return Ok(()),
        }
    }
}

fn report_bitmaps(
    storage: &mut dyn Storage,
    device: DeviceId,
    header: &Header,
    pointer: BitmapsPointer,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut directory = BitmapDirectory::new(header, pointer).map_err(cannot_open)?;
    let mut window = Window::new(storage, device);
    let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut needed = 0;
    loop {
        let bytes = window.at(directory.next_offset(), needed)?;
        match directory.step(bytes).map_err(cannot_open)? {
            bitmap::Step::Entry(bitmap) => {
                needed = 0;
                let item = BitmapItem {
                    granularity_bytes: bitmap.granularity_bytes(),
                    flags: bitmap.flags,
                    name_length_bytes: name_length(&bitmap.name),
                };
                found.push(payload_kind::BITMAP, &item, &[&bitmap.name])?;
                if names.contains(&bitmap.name) {
                    let name = String::from_utf8_lossy(&bitmap.name).into_owned();
                    return Err(cannot_open(BitmapError::Duplicate { name }));
                }
                names.insert(bitmap.name);
            }
            bitmap::Step::NeedBytes(bytes) => needed = bytes,
            bitmap::Step::End => return Ok(()),
        }
    }
}
