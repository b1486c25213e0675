//! Looks at single images: runs the info program on each, and turns its report into what a chain is made of.

use std::fmt::Display;
use std::time::Instant;

use instar_abi::job::operation;
use instar_abi::memory::DEFAULT_MEMORY_BYTES;
use instar_abi::report::{InfoReport, error_kind, info_flag};
use instar_abi::wire::Wire;
use tracing::info;

use super::info::{BadReport, ImageInfo};
use super::job::Devices;
use super::sandbox::{Answer, Sandbox};
use crate::files::chain::{Finding, Inspect, Summary};
use crate::files::{ImageFile, driver};
use crate::text::Printable;
use crate::vm::VmError;

/// Inspects images by running the info program on each.
pub(super) struct Inspector<'a, S>(pub(super) &'a mut S);

impl<S: Sandbox> Inspect for Inspector<'_, S> {
    type Error = VmError;

    fn inspect(&mut self, image: &ImageFile, format: u32) -> Result<Summary, Finding<VmError>> {
        self.inspect_extents(image, &[], format)
    }

    fn inspect_extents(
        &mut self,
        image: &ImageFile,
        extents: &[ImageFile],
        format: u32,
    ) -> Result<Summary, Finding<VmError>> {
        let start = Instant::now();
        let devices = Devices::single(image, extents, format);
        let job = devices.job(operation::INFO, &[0u8; 0]);
        let answer =
            self.0.run(operation::INFO, &devices, &job, DEFAULT_MEMORY_BYTES, None).map_err(Finding::Sandbox)?;
        match answer.error() {
            None => summary(answer)
                .inspect(|summary| tell(image, summary, start))
                .map_err(|error| Finding::Sandbox(VmError::Report(error.to_string()))),
            Some(error) if error.kind == error_kind::INTERNAL => Err(Finding::Sandbox(error.into_stop())),
            Some(error) => Err(Finding::Image(error.into_cause(image.name()))),
        }
    }
}

/// Tells those who follow the log what an image is.
fn tell(image: &ImageFile, summary: &Summary, start: Instant) {
    let name = driver::name(summary.format).unwrap_or("unknown");
    let backing = summary.backing_name.as_deref().map(Printable);
    let backing = backing.as_ref().map_or(&"none" as &dyn Display, |name| name);
    let (virtual_size_bytes, took) = (summary.virtual_size_bytes, start.elapsed());
    info!(file = %Printable(image.name()), format = name, virtual_size_bytes, %backing, ?took, "looked at");
}

fn summary(answer: Answer) -> Result<Summary, BadReport> {
    let info = ImageInfo::decode(&answer.operation, &answer.payload)?;
    let report = InfoReport::get(&answer.operation);
    let has_data_file_name = report.flags & info_flag::HAS_DATA_FILE_NAME != 0;
    let name_length = usize::try_from(report.data_file_name_length_bytes).unwrap_or(usize::MAX);
    let data_file_name = report.data_file_name.get(..name_length).filter(|_| has_data_file_name);
    Ok(Summary {
        extent_names: info.vmdk.map_or_else(Vec::new, |vmdk| vmdk.files().into_iter().map(<[u8]>::to_vec).collect()),
        format: info.format,
        flags: report.flags,
        virtual_size_bytes: info.virtual_size_bytes,
        l1_entries: info.l1_entries,
        data_file_name: data_file_name.map(<[u8]>::to_vec),
        backing_name: info.backing_name.filter(|name| !name.is_empty()),
        backing_format: info.backing_format,
        report: answer.operation,
        payload: answer.payload,
    })
}
