//! The one image that a command is about: FILE, and the options that say how to understand it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use instar_abi::job::format;

use super::arguments::{GateArguments, ImageArguments};
use super::error::Failure;
use super::secret::Secrets;
use crate::files::policy::GateOptions;
use crate::files::{Access, Cause, ImageFile, ImageKeys, OpenError, Operand, driver, open_operand};

/// The environment's allowed directories, separated by colons.
pub(super) const ALLOW_DIRECTORIES_VARIABLE: &str = "INSTAR_ALLOW_DIRS";

/// FILE, open.
pub(super) struct OpenOperand {
    /// Its file, under the name that FILE boils down to.
    pub(super) image: ImageFile,
    /// One of [`format`]: what was said, or [`format::PROBE`].
    pub(super) format: u32,
    /// Which secrets open it and the images below.
    pub(super) keys: ImageKeys,
    /// All secrets of the command line.
    pub(super) secrets: Secrets,
}

/// The one FILE on the command line.
///
/// # Errors
/// None, or more than one.
pub(super) fn one_file<'a>(command: &'static str, image: &'a ImageArguments) -> Result<&'a OsStr, Failure> {
    match image.files.as_slice() {
        [file] => Ok(file),
        _ => Err(Failure::usage(command, "Expecting one image file name")),
    }
}

/// Reads FILE, which may be an option string.
///
/// # Errors
/// A name that is no local file's, and options that are not understood.
pub(super) fn read(typed: &[u8], is_options: bool) -> Result<Operand, Cause> {
    if is_options {
        Operand::from_image_options(typed)
            .map_err(|error| Cause::NotLocal { name: typed.to_vec(), finding: error.to_string() })
    } else {
        Operand::from_name(typed)
    }
}

/// Opens FILE.
///
/// # Errors
/// Options that contradict each other, an unknown format, a name that is no local file's, and what the system says.
pub(super) fn open(file: &OsStr, image: &ImageArguments, access: Access) -> Result<OpenOperand, Failure> {
    let typed = file.as_bytes();
    let failed = |cause| Failure::Open(OpenError { image: typed.to_vec(), backing_depth: 0, cause });
    let secrets = Secrets::read(&image.objects)?;
    if image.image_options && image.format.is_some() {
        return Err(Failure::Option("--image-opts and --format are mutually exclusive".to_owned()));
    }
    let operand = read(typed, image.image_options).map_err(failed)?;
    let named = image.format.as_deref().or(operand.driver.as_deref().map(OsStr::new));
    let format = match named.map(OsStrExt::as_bytes) {
        None => format::PROBE,
        Some(name) => driver::number(name).ok_or_else(|| failed(Cause::UnknownDriver(name.to_vec())))?,
    };
    let image = open_operand(&operand.path, access).map_err(failed)?;
    Ok(OpenOperand { image, format, keys: operand.keys, secrets })
}

/// What the user allows.
pub(super) fn gate_options(gate: &GateArguments, named_base: Option<&OsStr>) -> GateOptions {
    let environment = std::env::var_os(ALLOW_DIRECTORIES_VARIABLE).unwrap_or_default();
    let listed = std::env::split_paths(&environment).filter(|directory| *directory != PathBuf::new());
    GateOptions {
        allowed_directories: gate.allowed_directories.clone(),
        environment_directories: listed.collect(),
        any_path: gate.any_path,
        named_base: named_base.map(|base| base.as_bytes().to_vec()),
    }
}
