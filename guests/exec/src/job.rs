//! Reads the job that the host left in memory: header, device table, and the bytes of the operation's own part.
//! The host is trusted, but a job that contradicts itself is refused rather than guessed at.

use alloc::vec::Vec;
use core::fmt;

use instar_abi::job::{
    ABI_VERSION, DeviceEntry, JOB_MAGIC, JobHeader, MAX_DEVICES, SECRETS_OFFSET, SecretEntry, SecretsHeader,
    device_flag, role,
};
use instar_abi::wire::Wire;

use crate::storage::DeviceId;

/// Where the operation's own part of a job begins, in bytes.
pub const OPERATION_PART_OFFSET: usize = JobHeader::SIZE_BYTES + MAX_DEVICES * DeviceEntry::SIZE_BYTES;

/// A job, checked.
#[derive(Clone)]
pub struct Job<'a> {
    /// One of [`instar_abi::job::operation`].
    pub operation: u32,
    /// Number of layers, at least 1; layer 0 is the image named on the command line.
    pub layer_count: u32,
    /// The device table; the index is the device's number. Every row names a layer below `layer_count`.
    pub devices: Vec<DeviceEntry>,
    operation_part: &'a [u8],
    /// Passphrases and their layers.
    secrets: Vec<(u32, &'a [u8])>,
}

/// Why a job makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobError {
    /// The job ends before its last field.
    TooShort,
    /// The magic is not [`JOB_MAGIC`].
    Magic,
    /// Host and guest were not built together.
    AbiVersion,
    /// More than [`MAX_DEVICES`] devices, or none.
    DeviceCount,
    /// No layer, or a device of a layer that does not exist.
    Layer,
    /// A layer without an image device.
    NoImage,
    /// Secrets that end behind the job.
    Secrets,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "the job is cut off",
            Self::Magic => "there is no job",
            Self::AbiVersion => "the job is of another version of the contract",
            Self::DeviceCount => "the job has no device, or too many",
            Self::Layer => "the job names a layer that it does not have",
            Self::NoImage => "the job has a layer without an image",
            Self::Secrets => "the job's secrets are cut off",
        })
    }
}

impl core::error::Error for JobError {}

impl<'a> Job<'a> {
    /// Reads and checks a job: the bytes of the job area, from its start.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JobError> {
        let header = JobHeader::get(bytes.get(..JobHeader::SIZE_BYTES).ok_or(JobError::TooShort)?);
        if header.magic != JOB_MAGIC {
            return Err(JobError::Magic);
        }
        if header.abi_version != ABI_VERSION {
            return Err(JobError::AbiVersion);
        }
        let count = usize::try_from(header.device_count).map_err(|_| JobError::DeviceCount)?;
        if count == 0 || count > MAX_DEVICES {
            return Err(JobError::DeviceCount);
        }
        let table = bytes.get(JobHeader::SIZE_BYTES..OPERATION_PART_OFFSET).ok_or(JobError::TooShort)?;
        let devices: Vec<DeviceEntry> =
            table.chunks_exact(DeviceEntry::SIZE_BYTES).take(count).map(DeviceEntry::get).collect();
        if header.layer_count == 0 || devices.iter().any(|device| device.layer >= header.layer_count) {
            return Err(JobError::Layer);
        }
        let operation_part = bytes.get(OPERATION_PART_OFFSET..).unwrap_or_default();
        let secrets = secrets(bytes.get(SECRETS_OFFSET..).unwrap_or_default()).ok_or(JobError::Secrets)?;
        let job =
            Self { operation: header.operation, layer_count: header.layer_count, devices, operation_part, secrets };
        // Layers without a device cannot be more than devices: the count is bounded before it is walked.
        if job.layer_count > header.device_count || (0..job.layer_count).any(|layer| job.image(layer).is_none()) {
            return Err(JobError::NoImage);
        }
        Ok(job)
    }

    /// Reads the operation's own part, such as [`instar_abi::job::CommitJob`].
    pub fn operation_part<T: Wire>(&self) -> Result<T, JobError> {
        self.operation_part.get(..T::SIZE_BYTES).map(T::get).ok_or(JobError::TooShort)
    }

    /// The passphrase of a layer.
    pub(crate) fn secret(&self, layer: u32) -> Option<&'a [u8]> {
        self.secrets.iter().find(|(own, _)| *own == layer).map(|(_, passphrase)| *passphrase)
    }

    /// The image device of a layer and its row.
    pub fn image(&self, layer: u32) -> Option<(DeviceId, &DeviceEntry)> {
        self.find(layer, role::IMAGE, 0)
    }

    /// The data device of a layer with the given index, and its row.
    pub fn data(&self, layer: u32, index: u32) -> Option<(DeviceId, &DeviceEntry)> {
        self.find(layer, role::DATA, index)
    }

    /// Whether the job may write to a device.
    pub fn is_writable(&self, device: DeviceId) -> bool {
        usize::try_from(device.0)
            .ok()
            .and_then(|index| self.devices.get(index))
            .is_some_and(|entry| entry.flags & device_flag::WRITABLE != 0)
    }

    fn find(&self, layer: u32, role: u32, index: u32) -> Option<(DeviceId, &DeviceEntry)> {
        (0u32..)
            .zip(&self.devices)
            .find(|(_, entry)| entry.layer == layer && entry.role == role && entry.index == index)
            .map(|(number, entry)| (DeviceId(number), entry))
    }
}

/// Reads the secrets; `None` if they are cut off.
fn secrets(bytes: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut secrets = Vec::new();
    let Some(header) = bytes.get(..SecretsHeader::SIZE_BYTES).map(SecretsHeader::get) else { return Some(secrets) };
    let mut rest = &bytes[SecretsHeader::SIZE_BYTES..];
    for _ in 0..header.count {
        let (entry, behind) = rest.split_at_checked(SecretEntry::SIZE_BYTES)?;
        let entry = SecretEntry::get(entry);
        let (passphrase, behind) = behind.split_at_checked(usize::try_from(entry.length_bytes).ok()?)?;
        secrets.push((entry.layer, passphrase));
        rest = behind;
    }
    Some(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use instar_abi::job::{CommitJob, operation};

    fn device(role: u32, layer: u32) -> DeviceEntry {
        DeviceEntry { role, layer, index: 0, format: 0, flags: layer & device_flag::WRITABLE, reserved: 0 }
    }

    fn job(devices: &[DeviceEntry], layer_count: u32) -> Vec<u8> {
        let mut bytes = vec![0; OPERATION_PART_OFFSET + CommitJob::SIZE_BYTES];
        let device_count = u32::try_from(devices.len()).unwrap();
        let header = JobHeader {
            magic: JOB_MAGIC,
            abi_version: ABI_VERSION,
            operation: operation::COMMIT,
            device_count,
            layer_count,
        };
        header.put(&mut bytes);
        for (row, entry) in devices.iter().enumerate() {
            entry.put(&mut bytes[JobHeader::SIZE_BYTES + row * DeviceEntry::SIZE_BYTES..]);
        }
        CommitJob { base_layer: 1, flags: 1 }.put(&mut bytes[OPERATION_PART_OFFSET..]);
        bytes
    }

    #[test]
    fn find_devices_by_layer_and_role() {
        let bytes = job(&[device(role::IMAGE, 0), device(role::DATA, 0), device(role::IMAGE, 1)], 2);
        let job = Job::parse(&bytes).unwrap();
        assert_eq!(job.image(1).map(|(id, _)| id), Some(DeviceId(2)));
        assert_eq!(job.data(0, 0).map(|(id, _)| id), Some(DeviceId(1)));
        assert!(job.data(1, 0).is_none());
        assert!(job.is_writable(DeviceId(2)) && !job.is_writable(DeviceId(0)) && !job.is_writable(DeviceId(3)));
        assert_eq!(job.operation_part::<CommitJob>(), Ok(CommitJob { base_layer: 1, flags: 1 }));
    }

    #[test]
    fn find_the_secrets_of_layers() {
        let mut bytes = job(&[device(role::IMAGE, 0), device(role::IMAGE, 1)], 2);
        assert_eq!(Job::parse(&bytes).unwrap().secret(0), None);
        bytes.resize(SECRETS_OFFSET + 24, 0);
        SecretsHeader { count: 1, reserved: 0 }.put(&mut bytes[SECRETS_OFFSET..]);
        SecretEntry { layer: 1, length_bytes: 6 }.put(&mut bytes[SECRETS_OFFSET + 8..]);
        bytes[SECRETS_OFFSET + 16..][..6].copy_from_slice(b"secret");
        let parsed = Job::parse(&bytes).unwrap();
        assert_eq!((parsed.secret(0), parsed.secret(1)), (None, Some(&b"secret"[..])));
        let parse = |bytes: &[u8]| Job::parse(bytes).map(|_| ()).unwrap_err();
        assert_eq!(parse(&bytes[..SECRETS_OFFSET + 21]), JobError::Secrets);
        SecretsHeader { count: u32::MAX, reserved: 0 }.put(&mut bytes[SECRETS_OFFSET..]);
        assert_eq!(parse(&bytes), JobError::Secrets);
    }

    #[test]
    fn refuse_jobs_that_contradict_themselves() {
        let image = device(role::IMAGE, 0);
        let parse = |bytes: &[u8]| Job::parse(bytes).map(|_| ()).unwrap_err();
        assert_eq!(parse(&[]), JobError::TooShort);
        assert_eq!(parse(&[0; 64]), JobError::Magic);
        assert_eq!(parse(&job(&[], 1)), JobError::DeviceCount);
        assert_eq!(parse(&job(&[device(role::IMAGE, 1)], 1)), JobError::Layer);
        assert_eq!(parse(&job(core::slice::from_ref(&image), u32::MAX)), JobError::NoImage);
        assert_eq!(parse(&job(&[image.clone(), device(role::DATA, 1)], 2)), JobError::NoImage);
        assert_eq!(parse(&job(&[image], 1)[..OPERATION_PART_OFFSET - 1]), JobError::TooShort);
    }
}
