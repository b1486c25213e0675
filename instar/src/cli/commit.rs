//! `instar commit`: opens the chain, finds the base, has the sandbox merge the layers above it into it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use instar_abi::job::{format, operation};
use instar_abi::report::{CommitReport, info_flag};

use super::arguments::CommitArguments;
use super::cache::CacheMode;
use super::commit_checks::{Afterwards, check_siblings, warn_of_snapshots};
use super::error::Failure;
use super::inspector::Inspector;
use super::meter::{Meter, Style};
use super::operand::{gate_options, open};
use super::output::{Form, complain, print};
use super::plan::{PlanOptions, Wishes};
use super::progress::ProgressWish;
use super::sandbox::Sandbox;
use super::secret::LayerSecret;
use super::stats::Stats;
use crate::code::Code;
use crate::devices::Flushing;
use crate::files::chain::{Layer, Links, discover};
use crate::files::policy::Gate;
use crate::files::{Access, Cause, ImageFile, OpenError, Removal, driver, find_base, system_text};
use crate::text::Printable;

mod jobs;
mod settings;

pub(super) use settings::Settings;

pub(super) const COMMAND: &str = "commit";

/// Runs the command, or with `plan` only says what it would do.
///
/// # Errors
/// Everything that keeps it from being done.
pub(super) fn run(
    arguments: &CommitArguments,
    plan: Option<&PlanOptions>,
    sandbox: &mut impl Sandbox,
) -> Result<(), Failure> {
    let stats = Stats::begin(arguments.care.stats);
    let Settings { form, rate, style, file, cache, afterwards } = Settings::read(arguments)?;
    let progress_wish = ProgressWish::listen();
    if plan.is_none() {
        sandbox.expect(operation::COMMIT);
    }
    let access = if plan.is_some() { Access::Read } else { Access::Write };
    let opened = open_layers(file, arguments, access, sandbox)?;
    // Whatever fails from here on fails behind the first line of progress, as in qemu-img.
    let style = if plan.is_some() { Style::Silent } else { style };
    let meter = Meter::start(style, progress_wish);
    let mut chain = Chain::choose(opened, arguments)?;
    chain.use_cache(cache)?;
    afterwards.check(arguments, &chain.layers, chain.base)?;
    check_siblings(arguments, &chain.layers, chain.base, sandbox)?;
    chain.check_base(arguments.force)?;
    if plan.is_none() {
        chain.make_base_writable()?;
    }
    warn_of_snapshots(&chain.layers, chain.base);
    // qemu-img never empties a vmdk overlay, so that has to be asked for.
    let empties =
        afterwards == Afterwards::Empty && (arguments.empty || chain.layers[0].summary.format != format::VMDK);
    if empties && plan.is_none() {
        chain.make_writable(0)?;
    }
    let removal = (afterwards == Afterwards::Delete).then(|| chain.prepare_removal()).transpose()?;
    let how = How {
        empties,
        verifies: arguments.care.verify,
        flushing: cache.flushing,
        bytes_per_second: rate,
        removal: removal.as_ref(),
    };
    if let Some(plan) = plan {
        let wishes = Wishes { options: plan, form, is_quiet: arguments.quiet };
        return chain.plan(&how, &wishes, sandbox);
    }
    chain.check_room(&how, sandbox)?;
    let report = chain.merge(&how, meter, sandbox)?;
    if let Some(removal) = &removal {
        chain.delete_overlay(removal)?;
    }
    if arguments.quiet {
        return Ok(());
    }
    match form {
        Form::Human => print(b"Image committed.\n").map(|()| stats.tell(sandbox.efforts())),
        Form::Json => {
            let mut more = Vec::new();
            if afterwards == Afterwards::Delete {
                more.push(("overlay_deleted", "true".to_owned()));
            }
            if how.verifies {
                more.push(("verified", "true".to_owned()));
            }
            more.extend(stats.as_json(sandbox.efforts()).map(|stats| ("stats", stats)));
            print(chain.as_json(&report, more).as_bytes())
        }
    }
}

/// How a chain is merged.
#[derive(Default)]
struct How<'a> {
    empties: bool,
    /// The base is read again and compared before the overlay changes.
    verifies: bool,
    flushing: Flushing,
    bytes_per_second: u64,
    /// What is done with the overlay afterwards.
    removal: Option<&'a Removal>,
}

/// An overlay's chain, and which of its layers is the base.
struct Chain {
    layers: Vec<Layer>,
    base: usize,
    secrets: Vec<LayerSecret>,
}

/// FILE and everything below it.
struct Opened {
    /// Decides which names that an image records are followed.
    gate: Gate,
    layers: Vec<Layer>,
    secrets: Vec<LayerSecret>,
}

fn open_layers(
    file: &OsStr,
    arguments: &CommitArguments,
    access: Access,
    sandbox: &mut impl Sandbox,
) -> Result<Opened, Failure> {
    let overlay = open(file, &arguments.image, access)?;
    let name = overlay.image.name().to_vec();
    let options = gate_options(&arguments.gate, arguments.base.as_deref());
    let gate = Gate::new(&name, &options).map_err(Failure::File)?;
    let layers =
        discover(&gate, overlay.image, overlay.format, overlay.keys, Links::OfOverlay, &mut Inspector(sandbox))?;
    if layers[0].summary.format == format::RAW && layers[0].given_format == format::PROBE {
        warn_of_probed_raw(&name);
    }
    let secrets = overlay.secrets.of_layers(&layers);
    let secrets = secrets.map_err(|error| Failure::Open(error.into_open_error(&layers)))?;
    Ok(Opened { gate, layers, secrets })
}

impl Chain {
    fn choose(opened: Opened, arguments: &CommitArguments) -> Result<Self, Failure> {
        let Opened { gate, layers, secrets } = opened;
        let base = match &arguments.base {
            Some(base) => find_base(&gate, &layers, base.as_bytes()).ok_or_else(|| Failure::NotInChain {
                base: base.as_bytes().to_vec(),
                image: layers[0].image.name().to_vec(),
            })?,
            None if layers.len() < 2 => return Err(Failure::NoBacking),
            None => 1,
        };
        Ok(Self { layers, base, secrets })
    }

    /// Opens all files in the way that a cache mode asks for.
    fn use_cache(&mut self, cache: CacheMode) -> Result<(), Failure> {
        if !cache.direct {
            return Ok(());
        }
        let image = self.name(0);
        for (backing_depth, layer) in self.layers.iter_mut().enumerate() {
            for file in layer.files_mut() {
                let failed = |cause| Failure::Open(OpenError { image: image.clone(), backing_depth, cause });
                file.bypass_cache().map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Everything that is decided about the base before it is opened for writing. `takes_for_raw` says that the user answers for
    /// a base that looks raw.
    fn check_base(&self, takes_for_raw: bool) -> Result<(), Failure> {
        let index = self.base;
        let base = &self.layers[index];
        if base.summary.format == format::PARALLELS {
            let text =
                format!("Block format 'parallels' used by node '#block{index:03}' does not support reopening files");
            return Err(Failure::Whole { code: Code::UnsupportedFormat, file: base.image.name().to_vec(), text });
        }
        let finding = |code, text: &str| {
            let (image, text) = (base.image.name().to_vec(), text.as_bytes().to_vec());
            Err(Failure::Image { code, image, text })
        };
        if base.given_format == format::PROBE && base.summary.format == format::RAW && !takes_for_raw {
            return finding(
                Code::Refused,
                "Its format is not recorded and probing guessed raw; writing to it is refused. \
                 Record the format first (instar rebase -u -b NAME -F raw FILE), or take it for raw with --force",
            );
        }
        if base.summary.flags & info_flag::CORRUPT != 0 {
            return finding(Code::CorruptImage, "The image is marked corrupt; writing to it is refused");
        }
        Ok(())
    }

    /// Opens the base for writing.
    fn make_base_writable(&mut self) -> Result<(), Failure> {
        self.make_writable(self.base)?;
        self.layers[self.base].files_mut().for_each(ImageFile::open_for_bulk);
        Ok(())
    }

    /// Opens all files of a layer for writing.
    fn make_writable(&mut self, layer: usize) -> Result<(), Failure> {
        self.layers[layer].files_mut().try_for_each(|file| file.make_writable().map_err(Failure::File))
    }

    /// Deletes the overlay; what it held is in the base, and that is on the disk in every cache mode.
    fn delete_overlay(&self, removal: &Removal) -> Result<(), Failure> {
        let failed = |what: &str, error: &io::Error| {
            let text = format!("It was committed, but not deleted: {what}{}", system_text(error)).into_bytes();
            Failure::Image { code: Code::NotDeleted, image: self.name(0), text }
        };
        self.layers[self.base]
            .files()
            .try_for_each(ImageFile::sync)
            .map_err(|error| failed("the base cannot be flushed: ", &error))?;
        removal.carry_out().map_err(|error| failed("", &error))
    }

    /// What is needed to delete the overlay later.
    fn prepare_removal(&self) -> Result<Removal, Failure> {
        Removal::prepare(&self.layers[0].image).map_err(|error| Failure::File(Cause::system(&self.name(0), &error)))
    }

    /// A layer's name; the overlay's for a layer that does not exist.
    fn name(&self, layer: usize) -> Vec<u8> {
        self.layers.get(layer).unwrap_or(&self.layers[0]).image.name().to_vec()
    }

    fn as_json(&self, report: &CommitReport, more: Vec<(&str, String)>) -> String {
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
        let lines: Vec<String> =
            members.iter().chain(&more).map(|(key, value)| format!("    \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

/// Warns as qemu-img does of an image that is opened for writing and was taken for raw.
pub(super) fn warn_of_probed_raw(image: &[u8]) {
    complain(&format!(
        "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions.",
        Printable(image)
    ));
}

#[cfg(test)]
mod tests;
