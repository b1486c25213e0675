//! `instar commit`: opens the chain, finds the base, has the sandbox merge the layers above it into it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use instar_abi::job::{CommitJob, commit_flag, format, operation};
use instar_abi::report::{CommitReport, error_kind, info_flag};
use instar_abi::wire::Wire;

use super::arguments::CommitArguments;
use super::error::Failure;
use super::job::{Devices, memory_bytes};
use super::operand::{gate_options, one_file, open};
use super::output::{Form, complain, print};
use super::progress::Progress;
use super::sandbox::{Inspector, Reported, Sandbox};
use super::{cache, rate};
use crate::files::chain::{Layer, Links, discover};
use crate::files::policy::Gate;
use crate::files::{Access, Cause, OpenError, driver, find_base};
use crate::text::Printable;
use crate::vm::VmError;

const COMMAND: &str = "commit";

/// Runs the command.
///
/// # Errors
/// Everything that keeps it from being done.
pub(super) fn run(arguments: &CommitArguments, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
    let form = Form::parse(COMMAND, arguments.output.as_deref())?;
    if let Some(typed) = &arguments.rate {
        rate::parse(typed).map_err(Failure::Option)?;
    }
    let file = one_file(COMMAND, &arguments.image)?;
    if let Some(mode) = arguments.cache.as_deref().filter(|mode| !cache::is_mode(mode.as_bytes())) {
        return Err(Failure::Option(format!("Invalid cache option: {}", Printable(mode.as_bytes()))));
    }
    let mut chain = Chain::open(file, arguments, sandbox)?;
    chain.make_base_writable()?;
    let empties = !arguments.drop && arguments.base.is_none();
    let report = chain.merge(empties, arguments.progress && !arguments.quiet, sandbox)?;
    if arguments.quiet {
        return Ok(());
    }
    match form {
        Form::Human => print(b"Image committed.\n"),
        Form::Json => print(chain.as_json(&report).as_bytes()),
    }
}

/// An overlay's chain, and which of its layers is the base.
struct Chain {
    layers: Vec<Layer>,
    base: usize,
}

impl Chain {
    fn open(file: &OsStr, arguments: &CommitArguments, sandbox: &mut impl Sandbox) -> Result<Self, Failure> {
        let overlay = open(file, &arguments.image, Access::Write)?;
        let name = overlay.image.name().to_vec();
        let failed = |cause| Failure::Open(OpenError { image: name.clone(), backing_depth: 0, cause });
        let gate = Gate::new(&name, &gate_options(&arguments.gate, arguments.base.as_deref())).map_err(failed)?;
        let layers = discover(&gate, overlay.image, overlay.format, Links::OfOverlay, &mut Inspector(sandbox))?;
        if layers[0].summary.format == format::RAW && layers[0].given_format == format::PROBE {
            warn_of_probed_raw(&name);
        }
        let base = match &arguments.base {
            Some(base) => find_base(&gate, &layers, base.as_bytes())
                .ok_or_else(|| Failure::NotInChain { base: base.as_bytes().to_vec(), image: name.clone() })?,
            None if layers.len() < 2 => return Err(Failure::NoBacking),
            None => 1,
        };
        Ok(Self { layers, base })
    }

    /// Everything that is decided about the base before it is opened for writing, and then that.
    fn make_base_writable(&mut self) -> Result<(), Failure> {
        let base = &mut self.layers[self.base];
        let finding = |text: &str| {
            let (image, text) = (base.image.name().to_vec(), text.as_bytes().to_vec());
            Err(Failure::Image { image, text })
        };
        if base.given_format == format::PROBE && base.summary.format == format::RAW {
            return finding(
                "Its format is not recorded and probing guessed raw; writing to it is refused. \
                 Record the format first: instar rebase -u -b NAME -F raw FILE",
            );
        }
        if base.summary.flags & info_flag::CORRUPT != 0 {
            return finding("The image is marked corrupt; writing to it is refused");
        }
        for file in [Some(&mut base.image), base.data.as_mut()].into_iter().flatten() {
            file.make_writable().map_err(Failure::Base)?;
        }
        Ok(())
    }

    fn merge(&self, empties: bool, shows: bool, sandbox: &mut impl Sandbox) -> Result<CommitReport, Failure> {
        let devices = Devices::chain(&self.layers, |index| index == self.base || (index == 0 && empties));
        let mut flags = if empties { commit_flag::EMPTY_OVERLAY } else { 0 };
        if self.layers[self.base].given_format == format::PROBE {
            flags |= commit_flag::BASE_FORMAT_PROBED;
        }
        let base_layer = u32::try_from(self.base).unwrap_or(u32::MAX);
        let job = devices.job(operation::COMMIT, &CommitJob { base_layer, flags });
        let mut progress = Progress::start(shows.then(|| io::stdout().lock()));
        let mut on_progress = |done, total| progress.update(done, total);
        let memory_bytes = memory_bytes(&self.layers);
        let answer = sandbox
            .run(operation::COMMIT, &devices, &job, memory_bytes, Some(&mut on_progress))
            .map_err(|error| Failure::Sandbox { image: self.name(0), error })?;
        if let Some(error) = answer.error() {
            return Err(self.failure(error));
        }
        progress.finish();
        if answer.operation.len() < CommitReport::SIZE_BYTES {
            return Err(Failure::Sandbox { image: self.name(0), error: VmError::Report("it is cut off".to_owned()) });
        }
        Ok(CommitReport::get(&answer.operation))
    }

    /// A layer's name; the overlay's for a layer that does not exist.
    fn name(&self, layer: usize) -> Vec<u8> {
        self.layers.get(layer).unwrap_or(&self.layers[0]).image.name().to_vec()
    }

    /// What the guest program reported, as the user will read it.
    fn failure(&self, error: Reported) -> Failure {
        let image = self.name(error.layer);
        match error.kind {
            error_kind::OPEN => {
                let backing_depth = if error.layer < self.layers.len() { error.layer } else { 0 };
                Failure::Open(OpenError { image: self.name(0), backing_depth, cause: Cause::Image(error.text) })
            }
            error_kind::CORRUPT | error_kind::UNSUPPORTED | error_kind::REFUSED => {
                Failure::Image { image, text: error.text }
            }
            error_kind::JOB | error_kind::STORAGE => Failure::Job(error.text),
            error_kind::INTERNAL => Failure::Sandbox { image, error: error.into_stop() },
            kind => Failure::Sandbox { image, error: VmError::Report(format!("unknown kind of error {kind}")) },
        }
    }

    fn as_json(&self, report: &CommitReport) -> String {
        let text = |bytes: &[u8]| serde_json::Value::from(String::from_utf8_lossy(bytes)).to_string();
        let format = |layer: usize| driver::name(self.layers[layer].summary.format).unwrap_or("unknown");
        let members = [
            ("overlay", text(&self.name(0))),
            ("overlay_format", text(format(0).as_bytes())),
            ("backing", text(&self.name(self.base))),
            ("backing_format", text(format(self.base).as_bytes())),
            ("clusters_committed", report.clusters_committed.to_string()),
            ("bytes_committed", report.bytes_committed.to_string()),
            ("overlay_clusters_cleared", report.overlay_clusters_cleared.to_string()),
        ];
        let lines: Vec<String> = members.iter().map(|(key, value)| format!("    \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

fn warn_of_probed_raw(image: &[u8]) {
    complain(&format!(
        "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions.",
        Printable(image)
    ));
}
