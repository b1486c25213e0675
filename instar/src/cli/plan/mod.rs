//! `instar plan`: says what a commit or a rebase would do, and changes nothing.
//!
//! The very guest program that would do the work does it, with the very options, on devices that only note what is done to
//! them. So nothing is estimated here: numbers are taken from there, and only put into words and pictures.

mod account;
mod human;
mod map;
mod picture;
mod svg;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arguments::{CommitArguments, ImageArguments, JailArguments, RebaseArguments};
use super::error::Failure;
use super::job::{Devices, memory_bytes};
use super::output::{Form, complain, print};
use super::sandbox::{Rehearsed, Sandbox};
use super::{commit, rebase};
use crate::code::Code;
use crate::devices::{Effects, obstacle};
use crate::files::chain::Layer;
use crate::files::{Cause, save_new, system_text};
use crate::vm::VmError;

use account::Account;
pub(super) use account::{Moves, Subject};

/// What `plan` is asked for.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// What would be done.
    #[command(subcommand)]
    command: PlanCommand,
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// What a commit would do; takes everything that commit takes for one image
    #[command(args_override_self = true, infer_long_args = true)]
    Commit(Box<PlannedCommit>),
    /// What a rebase would do; takes everything that rebase takes
    #[command(args_override_self = true, infer_long_args = true)]
    Rebase(Box<PlannedRebase>),
}

#[derive(Debug, Args)]
struct PlannedCommit {
    #[command(flatten)]
    options: PlanOptions,
    #[command(flatten)]
    command: CommitArguments,
}

#[derive(Debug, Args)]
struct PlannedRebase {
    #[command(flatten)]
    options: PlanOptions,
    #[command(flatten)]
    command: RebaseArguments,
}

/// The options that only a plan has.
#[derive(Debug, Args)]
pub(super) struct PlanOptions {
    /// Only say how long the files of the image that is written would become, and how much more space they would take
    #[arg(long = "measure")]
    measure: bool,
    /// Draw the layers into FILE, which must not exist, as SVG
    #[arg(long = "svg", value_name = "FILE", allow_hyphen_values = true)]
    svg: Option<PathBuf>,
}

impl PlanArguments {
    /// The image, and the form of the result.
    pub(super) fn asked(&self) -> (&ImageArguments, Option<&OsStr>) {
        match &self.command {
            PlanCommand::Commit(planned) => (&planned.command.image, planned.command.output.as_deref()),
            PlanCommand::Rebase(planned) => (&planned.command.image, planned.command.output.as_deref()),
        }
    }

    /// How a guest is to be held.
    pub(super) fn jail(&self) -> &JailArguments {
        match &self.command {
            PlanCommand::Commit(planned) => &planned.command.jail,
            PlanCommand::Rebase(planned) => &planned.command.jail,
        }
    }
}

/// What the user wants to see of a plan.
#[derive(Clone, Copy)]
pub(super) struct Wishes<'a> {
    pub(super) options: &'a PlanOptions,
    pub(super) form: Form,
    pub(super) is_quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever would keep the planned command from being done; a plan that cannot be made or not be written.
pub(super) fn run(arguments: &PlanArguments, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
    match &arguments.command {
        PlanCommand::Commit(planned) => commit::run(&planned.command, Some(&planned.options), sandbox),
        PlanCommand::Rebase(planned) => rebase::run(&planned.command, Some(&planned.options), sandbox),
    }
}

/// Rehearses a job on the layers of a chain. What the guest program reports is left to the caller.
///
/// # Errors
/// If it cannot be rehearsed.
pub(super) fn rehearse(
    layers: &[Layer],
    operation: u32,
    devices: &Devices<'_>,
    job: &[u8],
    sandbox: &mut impl Sandbox,
) -> Result<Rehearsed, Failure> {
    let image = || layers[0].image.name().to_vec();
    let failed = |error| Failure::Sandbox { image: image(), error };
    let rehearsed = sandbox.rehearse(operation, devices, job, memory_bytes(layers)).map_err(failed)?;
    if rehearsed.effects.len() != devices.files().len() {
        return Err(failed(VmError::Report("it is about other files".to_owned())));
    }
    let files = layers.iter().flat_map(Layer::files);
    match files.zip(&rehearsed.effects).find(|(_, effects)| effects.obstacle != obstacle::NONE) {
        Some((file, effects)) => {
            Err(Failure::Image { code: Code::Refused, image: file.name().to_vec(), text: hindrance(effects) })
        }
        None => Ok(rehearsed),
    }
}

/// Why a plan cannot be made, in the user's terms.
fn hindrance(effects: &Effects) -> Vec<u8> {
    if effects.obstacle == obstacle::TOO_MUCH {
        let text = "So many separate places of it would change that a plan would take too much memory. \
                    Nothing was changed; the command itself has no such limit";
        return text.as_bytes().to_vec();
    }
    let errno = i32::try_from(effects.obstacle_errno).unwrap_or(0);
    let reason = system_text(&io::Error::from_raw_os_error(errno));
    let text = format!(
        "The plan could not be made: what would be written to it is kept in the directory for temporary files, and there: {reason}. \
         TMPDIR names another directory"
    );
    text.into_bytes()
}

/// Shows a plan.
///
/// # Errors
/// If the picture cannot be made, or the result not be written.
pub(super) fn show(
    subject: &Subject<'_>,
    moves: &Moves,
    rehearsed: &Rehearsed,
    wishes: &Wishes<'_>,
    devices: &Devices<'_>,
    sandbox: &mut impl Sandbox,
) -> Result<(), Failure> {
    let account = Account::new(subject, moves, rehearsed, devices);
    let PlanOptions { measure, svg } = wishes.options;
    let needs_map = svg.is_some() || !measure;
    // The command itself need not look at what the layers hold: without a picture the plan is whole all the same.
    let map = needs_map.then(|| map::draw(subject, devices, sandbox)).transpose();
    let map = match svg {
        None => map,
        Some(path) => {
            let map = map?;
            let picture = map.as_ref().map_or_else(String::new, |map| svg::render(&account, map));
            let failed = |error| Failure::Option(unwritten(path.as_os_str(), &error));
            save_new(path, picture.as_bytes()).map_err(failed)?;
            Ok(map)
        }
    };
    let result = match (wishes.form, map) {
        _ if wishes.is_quiet => return Ok(()),
        (Form::Human, _) if *measure => human::measure(&account),
        (Form::Json, _) if *measure => account.measure_as_json(),
        (Form::Json, map) => account.as_json(map.ok().flatten().as_ref()),
        (Form::Human, Ok(map)) => {
            let picture = map.map_or_else(String::new, |map| picture::render(&account, &map));
            format!("{}\n{picture}", human::render(&account))
        }
        (Form::Human, Err(failure)) => {
            complain(&format!("{failure}; so there is no picture of the layers"));
            human::render(&account)
        }
    };
    print(result.as_bytes())
}

fn unwritten(path: &OsStr, error: &io::Error) -> String {
    let Cause::System { name, text, .. } = Cause::system(path.as_bytes(), error) else { return String::new() };
    format!("Could not write '{}': {text}", crate::text::Printable(&name))
}
