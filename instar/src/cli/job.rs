//! Jobs for the sandbox: from open layers to the device table and the bytes that a guest program reads.

use instar_abi::job::{ABI_VERSION, DeviceEntry, JOB_MAGIC, JobHeader, MAX_DEVICES, device_flag, format, role};
use instar_abi::memory::{DEFAULT_MEMORY_BYTES, LARGE_PAGE_BYTES};
use instar_abi::wire::Wire;
use zeroize::Zeroizing;

use super::secret::{self, LayerSecret};
use crate::devices::Flushing;
use crate::files::ImageFile;
use crate::files::chain::Layer;
use crate::jail::Purpose;
use crate::session::DeviceFile;

/// Memory for one L1 entry: 8 bytes as it is read and 8 as it is kept, and the overlay's table is needed twice.
const L1_ENTRY_BYTES: u64 = 32;
/// File bytes that one byte of memory stands for in the census of an image's clusters, where these are smallest.
const CENSUS_FILE_BYTES: u64 = 512 * 8;
/// The most memory that tables can ask for on top of the default.
const MAX_TABLE_MEMORY_BYTES: u64 = 1 << 30;

/// The devices of a job: what the guest is told, and the files behind it. There are at most [`MAX_DEVICES`].
#[derive(Default)]
pub(super) struct Devices<'a> {
    rows: Vec<DeviceEntry>,
    files: Vec<DeviceFile<'a>>,
    layer_count: u32,
    bytes_per_second: u64,
    secrets: &'a [LayerSecret],
    purpose: Purpose<'a>,
}

impl<'a> Devices<'a> {
    /// One image with its extent files, read-only.
    pub(super) fn single(image: &'a ImageFile, extents: &'a [ImageFile], image_format: u32) -> Self {
        let mut devices = Self::default();
        devices.push_layer(image, extents, image_format, false);
        devices
    }

    /// The same, but open for writing, and written: each image file becomes durable as this says.
    pub(super) fn written(mut self, flushing: Flushing) -> Self {
        self.purpose = Purpose::Writing;
        self.rows.iter_mut().for_each(|row| row.flags |= device_flag::WRITABLE);
        self.files.iter_mut().for_each(|file| file.writable = true);
        self.flushed(flushing)
    }

    /// A whole chain; `is_writable` says for each layer whether the job may change it.
    pub(super) fn chain(layers: &'a [Layer], is_writable: impl Fn(usize) -> bool) -> Self {
        let mut devices = Self { purpose: Purpose::Writing, ..Self::default() };
        for (index, layer) in layers.iter().enumerate() {
            let data = layer.data.iter().chain(&layer.extents);
            devices.push_layer(&layer.image, data, layer.summary.format, is_writable(index));
        }
        devices
    }

    fn push_layer(
        &mut self,
        image: &'a ImageFile,
        data: impl IntoIterator<Item = &'a ImageFile>,
        image_format: u32,
        writable: bool,
    ) {
        let layer = self.layer_count;
        let flags = if writable { device_flag::WRITABLE } else { 0 };
        let data = (0..).zip(data).map(|(index, file)| (file, role::DATA, format::RAW, index));
        for (file, role, format, index) in [(image, role::IMAGE, image_format, 0)].into_iter().chain(data) {
            self.rows.push(DeviceEntry { role, layer, index, format, flags, reserved: 0 });
            self.files.push(DeviceFile {
                direct: file.direct(),
                bulk: file.bulk(),
                probed: file.probed(),
                ..DeviceFile::new(file.file(), writable)
            });
        }
        self.layer_count += 1;
    }

    /// Whether a layer has a secret.
    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Gives layers their secrets.
    pub(super) fn with_secrets(mut self, secrets: &'a [LayerSecret]) -> Self {
        self.secrets = secrets;
        self
    }

    /// Says when what is written becomes durable.
    pub(super) fn flushed(mut self, flushing: Flushing) -> Self {
        self.files.iter_mut().for_each(|file| file.flushing = flushing);
        self
    }

    /// Limits what is written; 0 for no limit.
    pub(super) fn limited_to(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = bytes_per_second;
        self
    }

    /// The limit, in bytes; 0 for none.
    pub(super) fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Says what the process that runs the job is for.
    pub(super) fn used_for(mut self, purpose: Purpose<'a>) -> Self {
        self.purpose = purpose;
        self
    }

    /// What the process that runs the job is for.
    pub(super) fn purpose(&self) -> Purpose<'a> {
        self.purpose
    }

    /// The files in the order of the device table.
    pub(super) fn files(&self) -> &[DeviceFile<'a>] {
        &self.files
    }

    /// The job as the guest reads it, its secrets included.
    pub(super) fn job(&self, operation: u32, part: &impl Wire) -> Zeroizing<Vec<u8>> {
        fn append(job: &mut Vec<u8>, value: &impl Wire, size_bytes: usize) {
            let start = job.len();
            job.resize(start + size_bytes, 0);
            value.put(&mut job[start..]);
        }
        // With all its room from the start: a vector that grows leaves copies behind.
        let mut job = Zeroizing::new(Vec::with_capacity(secret::JOB_ROOM));
        let device_count = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let layer_count = self.layer_count;
        let header = JobHeader { magic: JOB_MAGIC, abi_version: ABI_VERSION, operation, device_count, layer_count };
        append(&mut job, &header, JobHeader::SIZE_BYTES);
        for row in &self.rows {
            append(&mut job, row, DeviceEntry::SIZE_BYTES);
        }
        job.resize(JobHeader::SIZE_BYTES + MAX_DEVICES * DeviceEntry::SIZE_BYTES, 0);
        append(&mut job, part, part_size(part));
        secret::append(&mut job, self.secrets);
        job
    }
}

fn part_size<T: Wire>(_: &T) -> usize {
    T::SIZE_BYTES
}

/// Memory for a job on these layers, in bytes: room for their tables on top of the default where these are large. Memory
/// that is not used costs nothing.
pub(super) fn memory_bytes(layers: &[Layer]) -> u64 {
    let of_layer = |layer: &Layer| {
        let lengths = layer.files().map(|file| file.facts().map_or(0, |facts| facts.length_bytes));
        let file_bytes = lengths.fold(0, u64::saturating_add);
        layer.summary.l1_entries.saturating_mul(L1_ENTRY_BYTES).saturating_add(file_bytes / CENSUS_FILE_BYTES)
    };
    let tables = layers.iter().map(of_layer).fold(0, u64::saturating_add).min(MAX_TABLE_MEMORY_BYTES);
    if tables < DEFAULT_MEMORY_BYTES / 8 {
        return DEFAULT_MEMORY_BYTES;
    }
    DEFAULT_MEMORY_BYTES + tables.next_multiple_of(LARGE_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Access, open_operand};
    use instar_abi::job::{CommitJob, operation};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_operations_part_follows_a_full_device_table() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let image = open_operand(file.path().as_os_str().as_bytes(), Access::Look).expect("opens");
        let devices = Devices::single(&image, &[], format::QCOW2);
        let job = devices.job(operation::COMMIT, &CommitJob { base_layer: 3, flags: 1 });
        let table = JobHeader::SIZE_BYTES;
        let end = table + MAX_DEVICES * DeviceEntry::SIZE_BYTES;
        let header = JobHeader::get(&job);
        assert_eq!((header.magic, header.device_count, header.layer_count), (JOB_MAGIC, 1, 1));
        let row = DeviceEntry::get(&job[table..]);
        assert_eq!(
            row,
            DeviceEntry { role: role::IMAGE, layer: 0, index: 0, format: format::QCOW2, flags: 0, reserved: 0 }
        );
        assert_eq!(CommitJob::get(&job[end..]), CommitJob { base_layer: 3, flags: 1 });
        assert_eq!(job.len(), end + CommitJob::SIZE_BYTES);
    }

    #[test]
    fn ordinary_images_get_the_default_memory() {
        assert_eq!(memory_bytes(&[]), DEFAULT_MEMORY_BYTES);
    }
}
