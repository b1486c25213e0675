//! The options of `commit` that can be understood without looking at a file, in the order in which users know them to be checked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::COMMAND;
use crate::cli::arguments::CommitArguments;
use crate::cli::cache::CacheMode;
use crate::cli::commit_checks::Afterwards;
use crate::cli::error::Failure;
use crate::cli::meter::Style;
use crate::cli::operand::one_file;
use crate::cli::output::Form;
use crate::cli::rate;
use crate::text::Printable;

/// What the options say.
pub(in crate::cli) struct Settings<'a> {
    /// The form of the result.
    pub(in crate::cli) form: Form,
    /// How progress is shown.
    pub(in crate::cli) style: Style,
    /// Bytes a second; 0 for no limit.
    pub(super) rate: u64,
    /// The one FILE.
    pub(super) file: &'a OsStr,
    /// How files are read and written.
    pub(super) cache: CacheMode,
    /// What becomes of FILE.
    pub(super) afterwards: Afterwards,
}

impl<'a> Settings<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// Options that make no sense or contradict each other; none or several FILEs.
    pub(in crate::cli) fn read(arguments: &'a CommitArguments) -> Result<Self, Failure> {
        let form = Form::parse(COMMAND, arguments.output.as_deref())?;
        let rate = arguments.rate.as_deref().map_or(Ok(0), rate::parse).map_err(Failure::Option)?;
        let style = Style::choose(COMMAND, arguments.progress.as_deref(), arguments.show_progress, arguments.quiet)?;
        let file = one_file(COMMAND, &arguments.image)?;
        let cache = match arguments.cache.as_deref() {
            None => CacheMode::default(),
            Some(name) => CacheMode::named(name.as_bytes())
                .ok_or_else(|| Failure::Option(format!("Invalid cache option: {}", Printable(name.as_bytes()))))?,
        };
        let afterwards = Afterwards::choose(arguments)?;
        Ok(Self { form, style, rate, file, cache, afterwards })
    }
}
