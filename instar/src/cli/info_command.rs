//! `instar info`: opens an image, or its whole chain, for metadata only, and prints what the sandbox reports.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use chrono::{DateTime, Local};

use super::arguments::InfoArguments;
use super::error::Failure;
use super::info::render::{render_human, render_json};
use super::info::{FileFacts, ImageEntry, ImageInfo, RECORDED, Version};
use super::inspector::Inspector;
use super::operand::{gate_options, one_file, open};
use super::output::{Form, print};
use super::sandbox::Sandbox;
use super::stats::Stats;
use crate::files::chain::{ChainError, Finding, Links, Summary, discover, inspect_whole, open_data};
use crate::files::policy::Gate;
use crate::files::{Access, Cause, ImageFile, Location, OpenError};
use crate::text::Printable;

const COMMAND: &str = "info";

/// Runs the command.
///
/// # Errors
/// Everything that keeps it from being done.
pub(super) fn run(arguments: &InfoArguments, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
    let stats = Stats::begin(arguments.stats);
    let form = Form::parse(COMMAND, arguments.output.as_deref())?;
    let version = version(arguments.qemu_version.as_deref())?;
    let file = one_file(COMMAND, &arguments.image)?;
    let access = if arguments.force_share { Access::Unlocked } else { Access::Look };
    let operand = open(file, &arguments.image, access)?;
    let name = operand.image.name().to_vec();
    let failed = |cause| Failure::Open(OpenError { image: name.clone(), backing_depth: 0, cause });
    let gate = Gate::new(&name, &gate_options(&arguments.gate, None)).map_err(Failure::File)?;
    let mut inspector = Inspector(sandbox);
    let entries = if arguments.backing_chain {
        let layers = discover(&gate, operand.image, operand.format, operand.keys, Links::EachAlone, &mut inspector)
            .map_err(|error| match error {
                ChainError::Open(OpenError { cause: cause @ Cause::Loop(_), .. }) => Failure::File(cause),
                error => error.into(),
            })?;
        let all = layers.iter();
        all.map(|layer| entry(&gate, &layer.image, &layer.extents, &layer.location, &layer.summary)).collect()
    } else {
        let location = Location::of_overlay(&name);
        let found = inspect_whole(&gate, &operand.image, &location, operand.format, &mut inspector);
        let (summary, extents) = found.map_err(|finding| match finding {
            Finding::Image(cause) => failed(cause),
            Finding::Sandbox(error) => Failure::Sandbox { image: name.clone(), error },
        })?;
        entry(&gate, &operand.image, &extents, &location, &summary).map(|entry| vec![entry])
    };
    let entries: Vec<ImageEntry> = entries?;
    match form {
        Form::Json => print(&render_json(&entries, version, arguments.backing_chain)),
        Form::Human => print(render_human(&entries, version, &local_time).as_bytes()),
    }?;
    stats.tell(sandbox.efforts());
    Ok(())
}

fn version(typed: Option<&OsStr>) -> Result<Version, Failure> {
    let Some(typed) = typed else { return Ok(RECORDED[RECORDED.len() - 1]) };
    let refused = || {
        let text = format!("--qemu-version expects a version such as 8.2.0, not '{}'", Printable(typed.as_bytes()));
        Failure::usage(COMMAND, text)
    };
    typed.to_str().and_then(|text| text.parse().ok()).ok_or_else(refused)
}

fn entry(
    gate: &Gate,
    image: &ImageFile,
    extents: &[ImageFile],
    location: &Location,
    summary: &Summary,
) -> Result<ImageEntry, Failure> {
    let info = ImageInfo::decode(&summary.report, &summary.payload)
        .map_err(|error| Failure::Report { image: image.name().to_vec(), error })?;
    // A data file that cannot be looked at, or must not be, is left out: only some versions show it at all.
    let data_file = open_data(gate, location, summary, Access::Unlocked).ok().flatten();
    let data_file = data_file.map(|file| facts(&file)).transpose()?;
    let extent_files = extents.iter().map(facts).collect::<Result<_, _>>()?;
    Ok(ImageEntry { info, file: facts(image)?, data_file, extent_files })
}

fn facts(image: &ImageFile) -> Result<FileFacts, Failure> {
    let facts = image.facts().map_err(|error| {
        let cause = Cause::system(image.name(), &error);
        Failure::Open(OpenError { image: image.name().to_vec(), backing_depth: 0, cause })
    })?;
    Ok(FileFacts {
        filename: OsString::from_vec(image.name().to_vec()),
        length_bytes: facts.length_bytes,
        allocated_bytes: facts.allocated_bytes,
    })
}

fn local_time(seconds: u32) -> String {
    let time = DateTime::from_timestamp(i64::from(seconds), 0).unwrap_or_default();
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}
