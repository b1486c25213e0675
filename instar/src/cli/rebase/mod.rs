//! `instar rebase`: opens the overlay and what it is and will be based on, has the sandbox carry over what would be lost,
//! and change the header.

mod chains;
mod failure;
mod plain;
#[cfg(test)]
mod tests;
mod wanted;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use instar_abi::job::{RebaseJob, format, operation, rebase_flag};
use instar_abi::report::{RebaseReport, error_kind};
use instar_abi::wire::Wire;

use super::arguments::RebaseArguments;
use super::cache::CacheMode;
use super::commit::warn_of_probed_raw;
use super::error::Failure;
use super::inspector::Inspector;
use super::job::{Devices, memory_bytes};
use super::operand::{OpenOperand, gate_options, one_file, open};
use super::output::{Channel, Form, print};
use super::plan::{self, Moves, PlanOptions, Subject, Wishes};
use super::progress::{Progress, ProgressWish};
use super::rate;
use super::repairs;
use super::sandbox::{Answer, Reported, Sandbox};
use super::secret::LayerSecret;
use super::stage::run_jobs;
use super::stats::Stats;
use super::verdict::{AFTERWARDS, COPYING, Verdict};
use crate::code::Code;
use crate::devices::Flushing;
use crate::files::chain::{Finding, Inspect, Layer, Links, discover};
use crate::files::policy::Gate;
use crate::files::{Access, ImageFile, Location, OpenError, driver};
use crate::text::Printable;
use crate::vm::VmError;

use chains::{Chains, Named};
pub use failure::RebaseFailure;
use wanted::{Done, Wanted};

const COMMAND: &str = "rebase";
/// How far progress moves before it is shown again.
const STEP_PERCENT: f64 = 2.0;

/// Runs the command, or with `plan` only says what it would do.
///
/// # Errors
/// Everything that keeps it from being done, in the order in which users know it.
pub(super) fn run(
    arguments: &RebaseArguments,
    plan: Option<&PlanOptions>,
    sandbox: &mut impl Sandbox,
) -> Result<(), Failure> {
    let stats = Stats::begin(arguments.care.stats);
    let form = Form::parse(COMMAND, arguments.output.as_deref())?;
    let bytes_per_second = arguments.rate.as_deref().map_or(Ok(0), rate::parse).map_err(Failure::Option)?;
    let file = one_file(COMMAND, &arguments.image)?;
    if !arguments.is_unsafe && arguments.backing.is_none() {
        return Err(Failure::usage(COMMAND, "Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    if arguments.is_unsafe && arguments.care.verify {
        let text = "--verify: with -u no data is compared or copied, so that there is nothing to verify";
        return Err(Failure::Option(text.to_owned()));
    }
    let shown = (arguments.progress && !arguments.quiet && plan.is_none()).then_some(Channel::Out);
    let mut progress = Progress::start(shown, ProgressWish::listen()).in_steps_of(STEP_PERCENT);
    let cache = cache_mode(arguments.cache.as_deref(), "cache")?;
    let backing_cache = cache_mode(arguments.backing_cache.as_deref(), "source cache")?;
    let pace = Pace { flushing: cache.flushing, bytes_per_second };
    let wanted = Wanted::new(arguments);
    if let Some(options) = plan {
        let operand = open(file, &arguments.image, Access::Read)?;
        let gate = gate(&operand, arguments)?;
        let mut rebase = Rebase::open(operand, gate, arguments, sandbox)?;
        rebase.use_caches(cache, backing_cache)?;
        return rebase.plan(&Wishes { options, form, is_quiet: arguments.quiet }, sandbox);
    }
    sandbox.expect(operation::REBASE);
    let operand = open(file, &arguments.image, Access::Write)?;
    let gate = gate(&operand, arguments)?;
    let at_once = if cache.direct { None } else { plain::attempt(&operand, &wanted, pace, sandbox)? };
    let done = match at_once {
        Some(done) => Ok(done),
        None => Rebase::open(operand, gate, arguments, sandbox).and_then(|mut rebase| {
            rebase.use_caches(cache, backing_cache)?;
            rebase.carry_out(pace, &mut progress, sandbox)
        }),
    };
    if matches!(done, Ok(_) | Err(Failure::Rebase(RebaseFailure::Header { .. }))) {
        // Changing the header is the last step: whoever reads the progress has seen everything else done by then.
        progress.finish();
    }
    let done = done?;
    match form {
        _ if arguments.quiet => {}
        Form::Human => stats.tell(sandbox.efforts()),
        Form::Json => {
            let verified = arguments.care.verify.then(|| ("verified", "true".to_owned()));
            let stats = stats.as_json(sandbox.efforts()).map(|stats| ("stats", stats));
            let more = verified.into_iter().chain(stats).collect();
            print(wanted.as_json(&done, more).as_bytes())?;
        }
    }
    Ok(())
}

fn cache_mode(typed: Option<&OsStr>, option: &str) -> Result<CacheMode, Failure> {
    let Some(name) = typed.map(OsStrExt::as_bytes) else { return Ok(CacheMode::default()) };
    CacheMode::named(name).ok_or_else(|| Failure::Option(format!("Invalid {option} option: {}", Printable(name))))
}

fn gate(operand: &OpenOperand, arguments: &RebaseArguments) -> Result<Gate, Failure> {
    let options = gate_options(&arguments.gate, arguments.backing.as_deref());
    Gate::new(operand.image.name(), &options).map_err(Failure::File)
}

/// How the overlay is written.
#[derive(Clone, Copy)]
struct Pace {
    flushing: Flushing,
    bytes_per_second: u64,
}

/// Everything that takes part, open.
struct Rebase<'a> {
    chains: Chains,
    wanted: Wanted<'a>,
    verifies: bool,
    secrets: Vec<LayerSecret>,
}

impl<'a> Rebase<'a> {
    /// Opens everything else. `operand` is the overlay; the gate is closed when all is open, and its directory with it.
    fn open(
        mut operand: OpenOperand,
        gate: Gate,
        arguments: &'a RebaseArguments,
        sandbox: &mut impl Sandbox,
    ) -> Result<Self, Failure> {
        let wanted = Wanted::new(arguments);
        let is_unsafe = wanted.is_unsafe;
        let secrets = std::mem::take(&mut operand.secrets);
        let typed = operand.image.name().to_vec();
        let probes = operand.format == format::PROBE;
        let layers = if is_unsafe {
            vec![alone(operand, sandbox)?]
        } else {
            let OpenOperand { image, format, keys, .. } = operand;
            discover(&gate, image, format, keys, Links::OfOverlay, &mut Inspector(sandbox))?
        };
        let overlay_format = layers[0].summary.format;
        if overlay_format == format::RAW && probes {
            warn_of_probed_raw(&typed);
        }
        if wanted.compresses && !matches!(overlay_format, format::QCOW2 | format::QCOW | format::VMDK) {
            return Err(Failure::Rebase(RebaseFailure::NoCompression));
        }
        let named_format = match wanted.format_name {
            None => format::PROBE,
            Some(name) => driver::number(name)
                .ok_or_else(|| Failure::Option(format!("Invalid format name: '{}'", Printable(name))))?,
        };
        let chains = match wanted.backing() {
            Some(name) if is_unsafe && overlay_format == format::VMDK => {
                let named = Named { name, format: named_format, access: Access::Unlocked };
                Chains::with_parent_of_vmdk(layers, &gate, named, sandbox)
            }
            Some(name) if !is_unsafe => {
                let access = if arguments.force_share { Access::Unlocked } else { Access::Read };
                Chains::with_new_backing(layers, &gate, Named { name, format: named_format, access }, sandbox)?
            }
            _ => Chains::detached(layers),
        };
        let rebase = Self { chains, wanted, verifies: arguments.care.verify, secrets: Vec::new() };
        let secrets = secrets.of_layers(&rebase.chains.layers).map_err(|error| rebase.failure(error))?;
        wanted.check().map_err(|text| rebase.header_failure(text.to_vec()))?;
        Ok(Self { secrets, ..rebase })
    }

    /// Opens all files in the way that the cache modes ask for: one of the overlay and its old chain, one of the new chain.
    fn use_caches(&mut self, old: CacheMode, new: CacheMode) -> Result<(), Failure> {
        let image = self.image(0);
        let old_layers = self.chains.old_layers;
        for (depth, layer) in self.chains.layers.iter_mut().enumerate() {
            let cache = if depth <= old_layers { old } else { new };
            for file in layer.files_mut().filter(|_| cache.direct) {
                let failed = |cause| Failure::Open(OpenError { image: image.clone(), backing_depth: depth, cause });
                file.bypass_cache().map_err(failed)?;
            }
        }
        let [overlay, sources @ ..] = self.chains.layers.as_mut_slice() else { return Ok(()) };
        overlay.files_mut().for_each(ImageFile::open_for_bulk);
        sources.iter_mut().flat_map(Layer::files_mut).for_each(ImageFile::open_for_probes);
        Ok(())
    }

    fn carry_out(
        &self,
        pace: Pace,
        progress: &mut Progress<impl io::Write>,
        sandbox: &mut impl Sandbox,
    ) -> Result<Done, Failure> {
        let layers = &self.chains.layers;
        let jobs = self.jobs(pace);
        let mut on_progress = |done, total| progress.update(done, total);
        let mut verdict = Verdict::default();
        let mut goes_on = |index, answer: &Answer| {
            answer.error().is_none() && (!self.verifies || verdict.goes_on(index, &answer.payload))
        };
        let answers = run_jobs(sandbox, operation::REBASE, &jobs, memory_bytes(layers), &mut on_progress, &mut goes_on)
            .map_err(|error| Failure::Sandbox { image: self.image(0), error })?;
        let copying = answers.get(if self.verifies { COPYING } else { 0 });
        copying.into_iter().for_each(|answer| repairs::tell(layers, &answer.payload));
        if let Some(part) = verdict.changed {
            return Err(self.verification_failure(0, part.to_string().as_bytes()));
        }
        if let Some(error) = answers.last().and_then(Answer::error) {
            let is_verifying = self.verifies && answers.len() == AFTERWARDS + 1;
            return Err(if is_verifying {
                self.verification_failure(error.layer, &error.text)
            } else {
                self.failure(error)
            });
        }
        let report = report_in(copying, || self.image(0))?;
        Ok(Done { overlay: self.image(0), format: layers[0].summary.format, report })
    }

    /// The jobs that make up the rebase: all in one; or what the overlay shows before, copying, what it shows afterwards, and
    /// the header. Those between which nothing may change write nothing.
    fn jobs(&self, pace: Pace) -> Vec<(Devices<'_>, RebaseJob)> {
        let job = |flag, writes| {
            let devices = Devices::chain(&self.chains.layers, |index| writes && index == 0)
                .with_secrets(&self.secrets)
                .flushed(pace.flushing)
                .limited_to(pace.bytes_per_second);
            let part = self.wanted.part(self.chains.old_layers, self.chains.join_layer);
            (devices, RebaseJob { flags: part.flags | flag, ..part })
        };
        if !self.verifies {
            return vec![job(0, true)];
        }
        vec![
            job(rebase_flag::DIGEST_OLD, false),
            job(rebase_flag::COPY_ONLY, true),
            job(rebase_flag::DIGEST_NEW, false),
            job(rebase_flag::HEADER_ONLY, true),
        ]
    }

    /// What is said where the overlay would not show the same.
    fn verification_failure(&self, layer: usize, text: &[u8]) -> Failure {
        let hint = b"; its backing file was not changed. Check the disk and restore the image before it is used or rebased again";
        let text = [b"Verification failed: ", text, hint].concat();
        Failure::Image { code: Code::VerificationFailed, image: self.image(layer), text }
    }

    /// Says what rebasing would do.
    fn plan(&self, wishes: &Wishes<'_>, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
        let devices = Devices::chain(&self.chains.layers, |index| index == 0).with_secrets(&self.secrets);
        let job = devices.job(operation::REBASE, &self.wanted.part(self.chains.old_layers, self.chains.join_layer));
        let rehearsed = plan::rehearse(&self.chains.layers, operation::REBASE, &devices, &job, sandbox)?;
        if let Some(error) = rehearsed.answer.error() {
            return Err(self.failure(error));
        }
        let report = report_in(Some(&rehearsed.answer), || self.image(0))?;
        let subject = Subject { command: COMMAND, layers: &self.chains.layers, target: 0 };
        let moves = Moves {
            bytes: report.bytes_copied,
            clusters: report.clusters_copied,
            cleared_clusters: 0,
            deletes_overlay: false,
        };
        plan::show(&subject, &moves, &rehearsed, wishes, &devices, sandbox)
    }

    /// A layer's name; the overlay's for a layer that does not exist.
    fn image(&self, layer: usize) -> Vec<u8> {
        let layers = &self.chains.layers;
        layers.get(layer).unwrap_or(&layers[0]).image.name().to_vec()
    }

    fn header_failure(&self, text: Vec<u8>) -> Failure {
        Failure::Rebase(RebaseFailure::Header { name: self.wanted.name.map(<[u8]>::to_vec), text })
    }

    /// What the guest program reported, as the user will read it.
    fn failure(&self, error: Reported) -> Failure {
        let image = self.image(error.layer);
        let layer = if error.layer < self.chains.layers.len() { error.layer } else { 0 };
        let new_depth = layer.checked_sub(self.chains.old_layers + 1);
        match (error.kind, new_depth) {
            (error_kind::OPEN, Some(backing_depth)) => Failure::Rebase(RebaseFailure::NewBacking {
                name: self.wanted.name.unwrap_or_default().to_vec(),
                backing_depth,
                cause: error.into_cause(&image),
            }),
            (error_kind::OPEN, None) => {
                Failure::Open(OpenError { image: self.image(0), backing_depth: layer, cause: error.into_cause(&image) })
            }
            (error_kind::CORRUPT | error_kind::UNSUPPORTED | error_kind::REFUSED, _) => {
                Failure::Image { code: error.code(Code::Refused), image, text: error.text }
            }
            (error_kind::JOB, _) => self.header_failure(error.text),
            (error_kind::STORAGE, Some(_)) => Failure::Rebase(RebaseFailure::ReadNew),
            (error_kind::STORAGE, None) if layer == 0 => {
                Failure::Rebase(RebaseFailure::Write { code: error.code(Code::Io), text: error.text })
            }
            (error_kind::STORAGE, None) => Failure::Rebase(RebaseFailure::ReadOld),
            (error_kind::INTERNAL, _) => Failure::Sandbox { image, error: error.into_stop() },
            (kind, _) => Failure::Sandbox { image, error: VmError::Report(format!("unknown kind of error {kind}")) },
        }
    }
}

/// The overlay without anything that it names.
fn alone(operand: OpenOperand, sandbox: &mut impl Sandbox) -> Result<Layer, Failure> {
    let OpenOperand { image, format: given_format, keys, .. } = operand;
    let summary = Inspector(sandbox).inspect(&image, given_format).map_err(|finding| match finding {
        Finding::Image(cause) => Failure::Open(OpenError { image: image.name().to_vec(), backing_depth: 0, cause }),
        Finding::Sandbox(error) => Failure::Sandbox { image: image.name().to_vec(), error },
    })?;
    let location = Location::of_overlay(image.name());
    let (key, _) = keys.split();
    Ok(Layer { image, data: None, extents: Vec::new(), summary, given_format, location, recorded: None, key })
}

/// The report of an answer without an error; `image` names what the job was about.
fn report_in(answer: Option<&Answer>, image: impl FnOnce() -> Vec<u8>) -> Result<RebaseReport, Failure> {
    match answer {
        Some(answer) if answer.operation.len() >= RebaseReport::SIZE_BYTES => Ok(RebaseReport::get(&answer.operation)),
        _ => Err(Failure::Sandbox { image: image(), error: VmError::Report("it is cut off".to_owned()) }),
    }
}
