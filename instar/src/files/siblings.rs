//! Finds the images of a directory that are based on the same images as an overlay, and would change with them.
//!
//! Looks into every regular file of that directory, and at nothing that these name but to see where the name leads.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use instar_abi::job::format;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::chain::{Finding, Inspect, Layer};
use super::error::Cause;
use super::name::{self, Location};
use super::open::{Access, ImageFile, identity_of, open_found};
use super::policy::{Gate, GateOptions};
use super::walk::{Directory, Found};

/// What was found in a directory.
#[derive(Debug, Default)]
pub struct Siblings {
    /// Names of other overlays.
    pub overlays: Vec<Vec<u8>>,
    /// Names of files of which nobody can say, with the reason.
    pub unknown: Vec<(Vec<u8>, String)>,
}

/// Looks for overlays of the layers from 1 to `base` that are no part of the chain. `options` says which directories names
/// may lead into.
///
/// # Errors
/// If the directory cannot be read.
pub fn find_siblings<I: Inspect<Error: Display>>(
    directory: &Path,
    options: &GateOptions,
    layers: &[Layer],
    base: usize,
    inspect: &mut I,
) -> Result<Siblings, Cause> {
    let cannot = |error: io::Error| Cause::system(directory.as_os_str().as_bytes(), &error);
    let canonical = fs::canonicalize(directory).map_err(cannot)?;
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        names.push(entry.map_err(cannot)?.file_name());
    }
    names.sort();
    let search = Search { directory, canonical, options, layers, base };
    let mut siblings = Siblings::default();
    for name in names {
        let shown = directory.join(&name).into_os_string().into_encoded_bytes();
        match search.is_sibling(&name, &shown, inspect) {
            Ok(false) => {}
            Ok(true) => siblings.overlays.push(shown),
            Err(reason) => siblings.unknown.push((shown, reason)),
        }
    }
    Ok(siblings)
}

struct Search<'a> {
    directory: &'a Path,
    canonical: PathBuf,
    options: &'a GateOptions,
    layers: &'a [Layer],
    base: usize,
}

impl Search<'_> {
    /// Whether a file is an overlay of an image that will change.
    fn is_sibling<I: Inspect<Error: Display>>(
        &self,
        name: &OsStr,
        shown: &[u8],
        inspect: &mut I,
    ) -> Result<bool, String> {
        let path = self.directory.join(name);
        let status = fs::symlink_metadata(&path).map_err(|error| super::system_text(&error))?;
        let in_chain = |file: &ImageFile| file.identity() == (status.dev(), status.ino());
        if !status.is_file() || self.layers.iter().flat_map(Layer::files).any(in_chain) {
            return Ok(false);
        }
        let image = self.open(name, shown).map_err(|cause| cause.to_string())?;
        let summary = match inspect.inspect(&image, format::PROBE) {
            Ok(summary) => summary,
            Err(Finding::Image(cause)) => return Err(cause.to_string()),
            Err(Finding::Sandbox(error)) => return Err(error.to_string()),
        };
        match &summary.backing_name {
            None => Ok(false),
            Some(recorded) => self.leads_to_chain(shown, recorded),
        }
    }

    fn open(&self, name: &OsStr, shown: &[u8]) -> Result<ImageFile, Cause> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened: OwnedFd = openat(AT_FDCWD, &self.canonical, flags, Mode::empty())
            .map_err(|errno| Cause::system(shown, &io::Error::from(errno)))?;
        let canonical = self.canonical.join(name);
        open_found(
            Found::Entry { directory: Directory::Below(opened), name: name.to_os_string(), canonical },
            shown,
            // Others may be at work on it: only its header is of interest.
            Access::Unlocked,
        )
    }

    /// Whether a name that a sibling records leads to one of the images that will change.
    fn leads_to_chain(&self, holder: &[u8], recorded: &[u8]) -> Result<bool, String> {
        let Ok(parsed) = name::parse(recorded) else {
            // Remote or nonsense: none of the files here.
            return Ok(false);
        };
        let location = Location::of_overlay(holder).join(&parsed);
        for layer in &self.layers[1..=self.base] {
            let named_base = Some(layer.image.canonical().as_os_str().as_bytes().to_vec());
            let gate = Gate::new(holder, &GateOptions { named_base, ..self.options.clone() })
                .map_err(|cause| cause.to_string())?;
            match gate.admit(&location, recorded) {
                Ok(found) if identity(&found) == Some(layer.image.identity()) => return Ok(true),
                Ok(_) => {}
                Err(cause @ Cause::Forbidden(_)) => return Err(cause.to_string()),
                // A name that leads nowhere does not lead here.
                Err(_) => {}
            }
        }
        Ok(false)
    }
}

/// Device and inode of the place that a name leads to.
fn identity(found: &Found<'_>) -> Option<(u64, u64)> {
    match found {
        Found::Named(path) => fs::metadata(path).ok().map(|status| identity_of(&status)),
        Found::Entry { directory, name, .. } => {
            let status = fstatat(directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
            Some((status.st_dev, status.st_ino))
        }
    }
}
