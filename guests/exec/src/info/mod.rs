//! Reads one image's metadata and reports it: what kind of image it is, how large, what it is based on.
//! Opens nothing that the image names and changes nothing.

mod luks;
mod parallels;
mod qcow;
mod qcow2;
mod qed;
mod vdi;
mod vhdx;
mod vmdk;
mod vpc;
mod window;

use alloc::vec::Vec;

use instar_abi::job::{MAX_NAME_BYTES, format, operation};
use instar_abi::report::{InfoReport, error_kind, info_flag};
use instar_abi::wire::Wire;
use instar_formats::probe::{Format, PROBE_BYTES, probe};
use instar_formats::raw;

use crate::job::Job;
use crate::report::{Failure, done, failed};
use crate::storage::{DeviceId, Storage};

/// Carries out an info job: `job` holds the job area, `report` is the report area, which receives an
/// [`InfoReport`] and payload items, or a failure of layer 0.
pub fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    match inspect(job, storage, report.len()) {
        Ok(found) => done(report, &found.report, &found.payload),
        Err(failure) => failed(report, &failure),
    }
}

/// What is known of an image, so far.
struct Found {
    report: InfoReport,
    payload: Vec<u8>,
    payload_limit_bytes: usize,
}

impl Found {
    fn new(report_area_bytes: usize) -> Self {
        let report = InfoReport {
            format: format::PROBE,
            flags: 0,
            version: 0,
            refcount_bits: 0,
            virtual_size_bytes: 0,
            cluster_size_bytes: 0,
            l1_entries: 0,
            backing_name_length_bytes: 0,
            backing_format_length_bytes: 0,
            data_file_name_length_bytes: 0,
            reserved: 0,
            backing_name: [0; MAX_NAME_BYTES],
            data_file_name: [0; MAX_NAME_BYTES],
            backing_format: [0; 16],
        };
        Self { report, payload: Vec::new(), payload_limit_bytes: report_area_bytes }
    }

    /// Sizes of the disk and of its clusters, and the backing name where one is recorded.
    fn describe(&mut self, virtual_size_bytes: u64, cluster_size_bytes: u64, backing_name: Option<&[u8]>) {
        self.report.virtual_size_bytes = virtual_size_bytes;
        self.report.cluster_size_bytes = cluster_size_bytes;
        let Some(name) = backing_name else { return };
        let length = name.len().min(MAX_NAME_BYTES);
        self.report.flags |= info_flag::HAS_BACKING;
        self.report.backing_name[..length].copy_from_slice(&name[..length]);
        self.report.backing_name_length_bytes = u32::try_from(length).unwrap_or(0);
    }

    /// Appends an item to the payload: its kind, its fixed part, its strings.
    fn push<T: Wire>(&mut self, kind: u32, item: &T, strings: &[&[u8]]) -> Result<(), Failure> {
        let strings_bytes: usize = strings.iter().map(|string| string.len()).sum();
        let length = T::SIZE_BYTES + strings_bytes;
        // Refused early, so that a table of any length takes no more memory than the report has room for.
        if self.payload.len() + length > self.payload_limit_bytes {
            let text = "the image has more snapshots, bitmaps and extents than can be reported";
            return Err(Failure::new(error_kind::REFUSED, 0, text));
        }
        let head = instar_abi::report::PayloadItem { kind, length_bytes: u32::try_from(length).unwrap_or(u32::MAX) };
        append(&mut self.payload, &head);
        append(&mut self.payload, item);
        for string in strings {
            self.payload.extend_from_slice(string);
        }
        Ok(())
    }
}

fn append<T: Wire>(bytes: &mut Vec<u8>, value: &T) {
    let start = bytes.len();
    bytes.resize(start + T::SIZE_BYTES, 0);
    value.put(&mut bytes[start..]);
}

/// A failure to open the image, in the words of the format.
fn cannot_open(error: impl core::fmt::Display) -> Failure {
    Failure::new(error_kind::OPEN, 0, error)
}

fn inspect(job: &[u8], storage: &mut dyn Storage, report_area_bytes: usize) -> Result<Found, Failure> {
    let job = Job::parse(job)?;
    if job.operation != operation::INFO {
        return Err(Failure::new(error_kind::INTERNAL, 0, "the job is not for this program"));
    }
    let Some((device, entry)) = job.image(0) else {
        return Err(Failure::new(error_kind::INTERNAL, 0, "the job has no image"));
    };
    let mut found = Found::new(report_area_bytes);
    found.report.format = entry.format;
    if entry.format == format::PROBE {
        found.report.format = probe_device(storage, device)?;
        found.report.flags |= info_flag::PROBED;
    }
    match found.report.format {
        format::RAW => {
            found.report.virtual_size_bytes = raw::virtual_size_bytes(storage.length_bytes(device))
                .ok_or_else(|| cannot_open("Could not refresh total sector count: File too large"))?;
        }
        format::QCOW2 => qcow2::inspect(storage, device, &mut found)?,
        format::VMDK => vmdk::inspect(storage, &job, device, &mut found)?,
        format::QED => qed::inspect(storage, device, &mut found)?,
        format::QCOW => qcow::inspect(storage, device, &mut found)?,
        format::VDI => vdi::inspect(storage, device, &mut found)?,
        format::VHDX => vhdx::inspect(storage, device, &mut found)?,
        format::VPC => vpc::inspect(storage, device, &mut found)?,
        format::PARALLELS => parallels::inspect(storage, device, &mut found)?,
        // Other formats: their number is all that is known of them.
        _ => {}
    }
    Ok(found)
}

fn probe_device(storage: &mut dyn Storage, device: DeviceId) -> Result<u32, Failure> {
    let mut start = [0; PROBE_BYTES];
    storage.read(device, 0, &mut start).map_err(|error| Failure::storage(0, error))?;
    Ok(match probe(&start) {
        Format::Raw => format::RAW,
        Format::Qcow2 => format::QCOW2,
        Format::Vmdk => format::VMDK,
        Format::Vdi => format::VDI,
        Format::Vhdx => format::VHDX,
        Format::Vpc => format::VPC,
        Format::Qed => format::QED,
        Format::Parallels => format::PARALLELS,
        Format::Qcow => format::QCOW,
        Format::Luks => format::LUKS,
        Format::Bochs | Format::Cloop => format::OTHER,
    })
}

#[cfg(test)]
mod tests;
