//! Which file a command works on and which files it may change, read from the arguments and the images' headers.

use crate::case::{Case, Operation};
use crate::image::qcow2::Qcow2;
use crate::image::{Chain, Layer, resolve_name};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The files of a command, as names relative to the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// FILE of the command line.
    pub overlay: Option<String>,
    /// Where commit writes; for rebase the new backing file.
    pub backing: Option<String>,
    /// Everything that a successful command may change.
    pub writable: BTreeSet<String>,
    /// Whether a successful commit leaves FILE alone (`-d` or `-b`).
    pub keeps_overlay: bool,
}

/// Options that take a value; the value is no file name.
const WITH_VALUE: [&str; 7] = ["-b", "-f", "-t", "-r", "-F", "-T", "-B"];

fn option_value<'a>(argv: &'a [String], option: &str) -> Option<&'a str> {
    argv.iter().position(|a| a == option).and_then(|at| argv.get(at + 1)).map(String::as_str)
}

fn positional(argv: &[String]) -> Vec<&str> {
    let mut found = Vec::new();
    let mut skip = false;
    for argument in argv {
        if skip {
            skip = false;
        } else if WITH_VALUE.contains(&argument.as_str()) {
            skip = true;
        } else if !argument.starts_with('-') {
            found.push(argument.as_str());
        }
    }
    found
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let folder = folder.canonicalize().ok()?;
    Some(real.strip_prefix(folder).ok()?.to_string_lossy().into_owned())
}

/// Finds the roles before the command runs.
pub fn of(case: &Case, folder: &Path) -> Roles {
    let mut roles = Roles::default();
    let arguments = positional(&case.argv);
    let [file] = arguments.as_slice() else { return roles };
    // --image-opts: the name is one of the options.
    let file = file.split(',').find_map(|part| part.strip_prefix("file.filename=")).unwrap_or(file);
    let path = folder.join(file);
    roles.overlay = relative(folder, &path);
    let format = path.extension().map(|e| e.to_string_lossy().into_owned());
    let explicit = option_value(&case.argv, "-b").filter(|name| !name.is_empty());
    let base: Option<PathBuf> = match (case.op, explicit) {
        (_, Some(name)) => resolve_name(&path, name).ok(),
        (Operation::Commit, None) => direct_backing(&path, format.as_deref()),
        (Operation::Rebase, None) => None,
    };
    roles.backing = base.as_deref().and_then(|base| relative(folder, base));
    roles.keeps_overlay =
        case.op == Operation::Commit && (explicit.is_some() || case.argv.iter().any(|argument| argument == "-d"));
    let is_dirty = Qcow2::open(&path).is_ok_and(|image| image.flagged());
    // An image that was not closed properly is repaired by whoever opens it for writing.
    if !roles.keeps_overlay || is_dirty {
        roles.add_writable(folder, roles.overlay.clone());
    }
    if case.op == Operation::Commit {
        roles.add_writable(folder, roles.backing.clone());
    }
    roles
}

impl Roles {
    fn add_writable(&mut self, folder: &Path, name: Option<String>) {
        let Some(name) = name else { return };
        let path = folder.join(&name);
        if let Ok(image) = Qcow2::open(&path)
            && let Some(data) = image.data_file()
            && let Some(data) = relative(folder, &path.with_file_name(data))
        {
            self.writable.insert(data);
        }
        self.writable.insert(name);
    }
}

fn direct_backing(path: &Path, format: Option<&str>) -> Option<PathBuf> {
    // What lies further down may be of a form that cannot be read here.
    if let Ok(image) = Qcow2::open(path) {
        return resolve_name(path, &image.backing()?.name).ok();
    }
    Chain::open(path, format).ok()?.files().get(1).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_options_are_no_files() {
        let argv: Vec<String> = ["-b", "base.qcow2", "-d", "-f", "qcow2", "top.qcow2"].map(String::from).to_vec();
        assert_eq!(positional(&argv), ["top.qcow2"]);
    }
}
