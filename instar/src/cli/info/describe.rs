//! An image's facts as a tree, in the members, the order and the exceptions of each version of qemu-img.
//!
//! The order of members is the same in all versions; it is neither alphabetic nor by meaning.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;

use instar_abi::job::format;

use super::image::{Bitmap, Encryption, ImageInfo, Qcow2Info, Snapshot};
use super::luks::{Luks, Slot};
use super::node::{Node, Object};
use super::vmdk::{VmdkExtent, VmdkInfo};
use super::{FileFacts, ImageEntry, Version, backing};

const NANOSECONDS: u64 = 1_000_000_000;
const SECTOR_BYTES: u64 = 512;

/// The name of a format, as in the member `format`.
pub fn format_name(number: u32) -> &'static str {
    match number {
        format::RAW => "raw",
        format::QCOW2 => "qcow2",
        format::VMDK => "vmdk",
        format::VDI => "vdi",
        format::VHDX => "vhdx",
        format::VPC => "vpc",
        format::QED => "qed",
        format::PARALLELS => "parallels",
        format::QCOW => "qcow",
        format::LUKS => "luks",
        _ => "unknown",
    }
}

/// The object of one image.
pub(super) fn image(entry: &ImageEntry, version: Version) -> Object {
    let info = &entry.info;
    let mut object = Object::default();
    if version.lists_children() {
        object.set("children", children(entry, version));
    }
    object.set_some("backing-filename-format", backing_format(info));
    let snapshots = snapshots(info);
    if !snapshots.is_empty() {
        object.set("snapshots", snapshots.iter().map(|item| snapshot(item).into()).collect::<Vec<Node>>());
    }
    object.set("virtual-size", info.virtual_size_bytes);
    object.set("filename", entry.file.filename.as_bytes());
    object.set_some("cluster-size", info.cluster_size_bytes);
    object.set("format", format_name(info.format));
    object.set("actual-size", actual_size(entry, version));
    object.set_some("format-specific", format_data(entry, version).map(|(kind, data)| specific(kind, data)));
    object.set_some("full-backing-filename", full_backing_name(entry).as_deref());
    if info.qcow2.as_ref().is_some_and(|qcow2| qcow2.encryption.is_some()) {
        object.set("encrypted", true);
    }
    object.set_some("backing-filename", info.backing_name.as_deref());
    // Some drivers do not answer: parallels never, and vmdk not for an image whose extents differ.
    if info.format != format::PARALLELS && info.vmdk.as_ref().is_none_or(VmdkInfo::is_uniform) {
        object.set("dirty-flag", is_dirty(info, version));
    }
    object
}

/// The recorded backing format; without a backing name it means nothing and is not shown.
pub(super) fn backing_format(info: &ImageInfo) -> Option<&[u8]> {
    info.backing_format.as_deref().filter(|_| info.backing_name.is_some())
}

/// The snapshots that are shown: images with an external data file show none.
pub(super) fn snapshots(info: &ImageInfo) -> &[Snapshot] {
    if info.qcow2.as_ref().is_some_and(|qcow2| qcow2.has_data_file) { &[] } else { &info.snapshots }
}

/// Whether the image is reported as not cleanly shut down.
pub(super) fn is_dirty(info: &ImageInfo, version: Version) -> bool {
    version.reports_dirty_qcow2() && info.qcow2.as_ref().is_some_and(|qcow2| qcow2.is_dirty)
}

/// The backing name as a path from where the program runs.
pub(super) fn full_backing_name(entry: &ImageEntry) -> Option<Vec<u8>> {
    entry.info.backing_name.as_deref().map(|name| backing::full_name(entry.file.filename.as_bytes(), name))
}

/// What the files of an image take up, in bytes.
pub(super) fn actual_size(entry: &ImageEntry, version: Version) -> u64 {
    let data_file = entry.data_file.as_ref().filter(|_| version.lists_data_file());
    let files = entry.extent_files.iter().chain(data_file).map(|file| file.allocated_bytes);
    files.fold(entry.file.allocated_bytes, u64::saturating_add)
}

/// The nodes below an image: name and file, most recently attached first. Older versions list none.
pub(super) fn child_files(entry: &ImageEntry, version: Version) -> Vec<(Cow<'static, str>, &FileFacts)> {
    let mut files = Vec::new();
    if version.lists_data_file() {
        files.extend(entry.data_file.as_ref().map(|file| (Cow::Borrowed("data-file"), file)));
    }
    if version.lists_children() {
        let extents = entry.info.vmdk.iter().flat_map(|vmdk| vmdk.extents.iter().enumerate().rev());
        files.extend(extents.filter_map(|(index, extent)| {
            Some((Cow::Owned(format!("extents.{index}")), entry.extent_files.get(extent.file?)?))
        }));
        files.push((Cow::Borrowed("file"), &entry.file));
    }
    files
}

/// Length of a file in whole sectors.
pub(super) fn file_length(file: &FileFacts) -> u64 {
    file.length_bytes.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(u64::MAX)
}

fn children(entry: &ImageEntry, version: Version) -> Vec<Node> {
    let child = |(name, file): (Cow<'static, str>, &FileFacts)| {
        let mut info = Object::default();
        info.set("children", Vec::new());
        info.set("virtual-size", file_length(file));
        info.set("filename", file.filename.as_bytes());
        info.set("format", "file");
        info.set("actual-size", file.allocated_bytes);
        info.set("format-specific", specific("file", Object::default()));
        info.set("dirty-flag", false);
        let mut child = Object::default();
        child.set("name", &*name);
        child.set("info", info);
        child.into()
    };
    child_files(entry, version).into_iter().map(child).collect()
}

fn specific(kind: &str, data: Object) -> Object {
    let mut object = Object::default();
    object.set("type", kind);
    object.set("data", data);
    object
}

fn snapshot(item: &Snapshot) -> Object {
    let mut object = Object::default();
    object.set_some("icount", item.icount);
    object.set("vm-clock-nsec", item.vm_clock_nanoseconds % NANOSECONDS);
    object.set("name", &*item.name);
    object.set("date-sec", item.date_seconds);
    object.set("date-nsec", item.date_nanoseconds);
    object.set("vm-clock-sec", item.vm_clock_nanoseconds / NANOSECONDS);
    object.set("id", &*item.id);
    object.set("vm-state-size", item.vm_state_size_bytes);
    object
}

/// The member `format-specific` of an image, where it has one: type and data.
pub(super) fn format_data(entry: &ImageEntry, version: Version) -> Option<(&'static str, Object)> {
    if let Some(qcow2) = &entry.info.qcow2 {
        return Some(("qcow2", qcow2_data(qcow2, version)));
    }
    entry.info.vmdk.as_ref().map(|vmdk| ("vmdk", vmdk_data(entry, vmdk)))
}

fn vmdk_data(entry: &ImageEntry, info: &VmdkInfo) -> Object {
    let extent = |extent: &VmdkExtent| {
        let file = extent.file.and_then(|file| entry.extent_files.get(file)).unwrap_or(&entry.file);
        let mut object = Object::default();
        if extent.is_compressed {
            object.set("compressed", true);
        }
        object.set("virtual-size", extent.virtual_size_bytes);
        object.set("filename", file.filename.as_bytes());
        object.set_some("cluster-size", extent.cluster_size_bytes);
        object.set("format", extent.kind.unwrap_or_default());
        object.into()
    };
    let mut object = Object::default();
    object.set("cid", info.cid);
    object.set("parent-cid", info.parent_cid);
    object.set("create-type", &*info.create_type);
    object.set("extents", info.extents.iter().map(extent).collect::<Vec<Node>>());
    object
}

/// The member `data` of a qcow2 image's `format-specific`.
fn qcow2_data(info: &Qcow2Info, version: Version) -> Object {
    let is_v3 = info.version >= 3;
    let mut object = Object::default();
    object.set("compat", if is_v3 { "1.1" } else { "0.10" });
    object.set("compression-type", if info.is_zstd { "zstd" } else { "zlib" });
    if is_v3 {
        object.set("lazy-refcounts", info.has_lazy_refcounts);
    }
    if is_v3 && !info.bitmaps.is_empty() {
        object.set("bitmaps", info.bitmaps.iter().map(|item| bitmap(item).into()).collect::<Vec<Node>>());
    }
    object.set("refcount-bits", info.refcount_bits);
    object.set_some("data-file", info.data_file_name.as_deref().filter(|_| is_v3));
    object.set_some("encrypt", info.encryption.as_ref().map(|encryption| encrypt(encryption, version)));
    if info.has_data_file {
        object.set("data-file-raw", info.is_data_file_raw);
    }
    if is_v3 {
        object.set("corrupt", info.is_corrupt);
        object.set("extended-l2", info.has_extended_l2);
    }
    object
}

fn bitmap(item: &Bitmap) -> Object {
    let flags = [(item.is_in_use, "in-use"), (item.is_enabled, "auto")];
    let mut object = Object::default();
    object.set(
        "flags",
        flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| (*name).into()).collect::<Vec<Node>>(),
    );
    object.set("name", &*item.name);
    object.set("granularity", item.granularity_bytes);
    object
}

fn encrypt(encryption: &Encryption, version: Version) -> Object {
    match encryption {
        Encryption::Aes => {
            let mut object = Object::default();
            object.set("format", "aes");
            object
        }
        Encryption::Luks(header) => luks(header, version),
    }
}

fn luks(header: &Luks, version: Version) -> Object {
    let mut object = Object::default();
    object.set("ivgen-alg", &*header.ivgen_alg);
    if version.says_detached_header() {
        object.set("detached-header", false);
    }
    object.set("hash-alg", &*header.hash_alg);
    object.set("cipher-alg", &*header.cipher_alg);
    object.set("uuid", &*header.uuid);
    object.set_some("ivgen-hash-alg", header.ivgen_hash_alg.as_deref());
    object.set("format", "luks");
    object.set("cipher-mode", &*header.cipher_mode);
    object.set("slots", header.slots.iter().map(|slot| luks_slot(slot).into()).collect::<Vec<Node>>());
    object.set("payload-offset", header.payload_offset_bytes);
    object.set("master-key-iters", header.master_key_iterations);
    object
}

fn luks_slot(slot: &Slot) -> Object {
    let mut object = Object::default();
    object.set("active", slot.key.is_some());
    object.set_some("iters", slot.key.map(|(iterations, _)| iterations));
    object.set("key-offset", slot.key_offset_bytes);
    object.set_some("stripes", slot.key.map(|(_, stripes)| stripes));
    object
}
