//! What a rebase is to make of the overlay: as typed, as the job says it, and as it is told afterwards.

use std::os::unix::ffi::OsStrExt;

use instar_abi::job::{MAX_NAME_BYTES, RebaseJob, rebase_flag};
use instar_abi::report::RebaseReport;

use crate::cli::arguments::RebaseArguments;
use crate::files::driver;

/// The longest format name that an image records.
const MAX_FORMAT_NAME_BYTES: usize = 15;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The new backing file as typed; `None` where nothing was.
    pub(super) name: Option<&'a [u8]>,
    /// Its format as typed.
    pub(super) format_name: Option<&'a [u8]>,
    /// Only the header changes.
    pub(super) is_unsafe: bool,
    /// What is copied is stored compressed.
    pub(super) compresses: bool,
}

/// A rebase that is done.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// The overlay's name.
    pub(super) overlay: Vec<u8>,
    /// Its format, of [`instar_abi::job::format`].
    pub(super) format: u32,
    /// What it took.
    pub(super) report: RebaseReport,
}

impl<'a> Wanted<'a> {
    /// What a command line asks for.
    pub(super) fn new(arguments: &'a RebaseArguments) -> Self {
        Self {
            name: arguments.backing.as_deref().map(OsStrExt::as_bytes),
            format_name: arguments.backing_format.as_deref().map(OsStrExt::as_bytes),
            is_unsafe: arguments.is_unsafe,
            compresses: arguments.compress,
        }
    }

    /// The new backing file, if there is to be one.
    pub(super) fn backing(&self) -> Option<&'a [u8]> {
        self.name.filter(|name| !name.is_empty())
    }

    /// Makes sure that a job can say it: what the sandbox would refuse as well, where the job has no room for it.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn check(&self) -> Result<(), &'static [u8]> {
        match self.backing() {
            Some(_) if self.format_name.unwrap_or_default().is_empty() => Err(b"backing format must be specified"),
            Some(name) if name.len() >= MAX_NAME_BYTES => Err(b"Invalid argument"),
            _ => Ok(()),
        }
    }

    /// The job's own part, for chains of these lengths. What does not fit is cut off.
    pub(super) fn part(&self, old_layers: usize, join_layer: usize) -> RebaseJob {
        let name = self.name.unwrap_or_default();
        let name = &name[..name.len().min(MAX_NAME_BYTES)];
        let format_name = self.format_name.unwrap_or_default();
        let format_name = &format_name[..format_name.len().min(MAX_FORMAT_NAME_BYTES)];
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut flags = if self.is_unsafe { rebase_flag::UNSAFE } else { 0 };
        flags |= if self.compresses { rebase_flag::COMPRESS } else { 0 };
        let mut part = RebaseJob {
            flags,
            old_layers: number(old_layers),
            join_layer: number(join_layer),
            name_length_bytes: number(name.len()),
            name: [0; MAX_NAME_BYTES],
            format_name: [0; 16],
        };
        part.name[..name.len()].copy_from_slice(name);
        part.format_name[..format_name.len()].copy_from_slice(format_name);
        part
    }

    /// The result as JSON, with these members at the end.
    pub(super) fn as_json(&self, done: &Done, more: Vec<(&str, String)>) -> String {
        let Done { overlay, format, report } = done;
        let text = |bytes: &[u8]| serde_json::Value::from(String::from_utf8_lossy(bytes)).to_string();
        let format = driver::name(*format).unwrap_or("unknown");
        let backing = match self.backing() {
            Some(name) => ("new_backing", text(name)),
            None => ("detached", "true".to_owned()),
        };
        let members = [
            ("overlay", text(overlay)),
            ("overlay_format", text(format.as_bytes())),
            ("mode", text(if self.is_unsafe { b"unsafe" } else { b"safe" })),
            ("clusters_copied", report.clusters_copied.to_string()),
            ("bytes_copied", report.bytes_copied.to_string()),
            backing,
        ];
        let lines: Vec<String> =
            members.iter().chain(&more).map(|(key, value)| format!("    \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}
