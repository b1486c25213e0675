//! `instar rebase`: checks what it is asked for. Changing the overlay is not part of this version.

use std::os::unix::ffi::OsStrExt;

use super::arguments::RebaseArguments;
use super::cache;
use super::error::Failure;
use super::operand::{one_file, open};
use super::output::Form;
use super::progress::{Progress, ProgressWish};
use crate::files::{Access, driver};
use crate::text::Printable;

const COMMAND: &str = "rebase";

/// Runs the command.
///
/// # Errors
/// Everything that is wrong with the request, in the order in which users know it; then that it cannot be done.
pub(super) fn run(arguments: &RebaseArguments) -> Result<(), Failure> {
    Form::parse(COMMAND, arguments.output.as_deref())?;
    let file = one_file(COMMAND, &arguments.image)?;
    if !arguments.is_unsafe && arguments.backing.is_none() {
        return Err(Failure::usage(COMMAND, "Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let shown = (arguments.progress && !arguments.quiet).then(std::io::stdout);
    let _progress = Progress::start(shown, ProgressWish::default());
    for (mode, option) in [(&arguments.cache, "cache"), (&arguments.backing_cache, "source cache")] {
        if let Some(mode) = mode.as_deref().filter(|mode| !cache::is_mode(mode.as_bytes())) {
            return Err(Failure::Option(format!("Invalid {option} option: {}", Printable(mode.as_bytes()))));
        }
    }
    open(file, &arguments.image, Access::Write)?;
    let format = arguments.backing_format.as_deref().map(OsStrExt::as_bytes);
    if let Some(name) = format.filter(|name| driver::number(name).is_none()) {
        return Err(Failure::Option(format!("Invalid format name: '{}'", Printable(name))));
    }
    let backing = arguments.backing.as_deref().map_or(&[][..], OsStrExt::as_bytes);
    if format.is_none() && !backing.is_empty() {
        let text = "backing format must be specified";
        return Err(Failure::Option(format!("Could not change the backing file to '{}': {text}", Printable(backing))));
    }
    Err(Failure::Unavailable("rebase is not available in this version"))
}
