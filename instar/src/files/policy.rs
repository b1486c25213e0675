//! The gate for names that images record: which of them may be followed, decided on the name alone.
//!
//! A place is allowed if it lies in the directory tree of the image named on the command line, in a directory that the
//! user allowed, or is a file that the user named. Outside of these nothing is touched, not even to see what is there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::error::Cause;
use super::name::{self, Location, Origin, directory};
use super::walk::{Found, Walk};

/// What the user said about names in images.
#[derive(Clone, Debug, Default)]
pub struct GateOptions {
    /// Directories whose trees are allowed.
    pub allowed_directories: Vec<PathBuf>,
    /// More of them, from the environment: those that do not exist are passed over.
    pub environment_directories: Vec<PathBuf>,
    /// Every file is allowed.
    pub any_path: bool,
    /// A file that the user named as base: absolute, or relative to the overlay's directory.
    pub named_base: Option<Vec<u8>>,
}

/// A tree whose files may be used. Opened once; everything in it is reached from the open directory.
#[derive(Debug)]
pub(super) struct Tree {
    /// Absolute, without symbolic links.
    pub(super) canonical: PathBuf,
    /// The absolute path under which the user knows it, if that is another one.
    alias: Option<PathBuf>,
    pub(super) directory: OwnedFd,
}

/// The decision for one run: made from the command line, asked for every name that an image records.
#[derive(Debug)]
pub struct Gate {
    overlay_directory: Vec<u8>,
    working_directory: PathBuf,
    trees: Vec<Tree>,
    files: Vec<NamedFile>,
    any_path: bool,
}

/// A file outside of the trees that the user named.
#[derive(Debug)]
struct NamedFile {
    canonical: PathBuf,
    typed: PathBuf,
}

impl Tree {
    fn open(path: &Path, working_directory: &Path) -> io::Result<Self> {
        let canonical = fs::canonicalize(path)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let directory = openat(AT_FDCWD, &canonical, flags, Mode::empty())?;
        let typed = working_directory.join(path);
        let plain = !typed.components().any(|part| matches!(part, std::path::Component::ParentDir));
        let alias = (plain && typed != canonical).then_some(typed);
        Ok(Self { canonical, alias, directory })
    }
}

impl Gate {
    /// Opens the directories that names may lead into. `overlay` is the image's name as typed.
    ///
    /// # Errors
    /// A directory that was named on the command line and cannot be opened.
    pub fn new(overlay: &[u8], options: &GateOptions) -> Result<Self, Cause> {
        let overlay_directory = directory(overlay).to_vec();
        let tree_path = if overlay_directory.is_empty() { Path::new(".") } else { path(&overlay_directory) };
        let cannot = |name: &Path| {
            let name = name.as_os_str().as_bytes().to_vec();
            move |error: io::Error| Cause::system(&name, &error)
        };
        let working_directory = std::env::current_dir().map_err(cannot(Path::new(".")))?;
        let mut trees = vec![Tree::open(tree_path, &working_directory).map_err(cannot(tree_path))?];
        for allowed in &options.allowed_directories {
            trees.push(Tree::open(allowed, &working_directory).map_err(cannot(allowed))?);
        }
        let from_environment = &options.environment_directories;
        trees.extend(from_environment.iter().filter_map(|allowed| Tree::open(allowed, &working_directory).ok()));
        let mut gate =
            Self { overlay_directory, working_directory, trees, files: Vec::new(), any_path: options.any_path };
        if let Some(base) = options.named_base.as_deref().and_then(|base| name::parse(base).ok()) {
            gate.consent(&Location::of_overlay(overlay).join(&base));
        }
        Ok(gate)
    }

    /// Lets the file at a location pass; nothing happens if there is no such file.
    fn consent(&mut self, location: &Location) {
        let typed = self.working_directory.join(path(&location.shown(&self.overlay_directory)));
        if let Ok(canonical) = fs::canonicalize(&typed) {
            self.files.push(NamedFile { canonical, typed });
        }
    }

    /// The overlay's directory as typed, with its last slash: what messages put in front of relative names.
    pub fn overlay_directory(&self) -> &[u8] {
        &self.overlay_directory
    }

    /// The place behind a location, if it may be used. `recorded` is the name that a refusal shows.
    pub(super) fn admit(&self, location: &Location, recorded: &[u8]) -> Result<Found<'_>, Cause> {
        let shown = location.shown(&self.overlay_directory);
        if self.any_path {
            return Ok(Found::Named(path(&shown).to_path_buf()));
        }
        let absolute = self.working_directory.join(path(&shown));
        if let Some(file) = self.files.iter().find(|file| file.typed == absolute || file.canonical == absolute) {
            return Ok(Found::Named(file.canonical.clone()));
        }
        let walk = match location.origin {
            Origin::OverlayDirectory => Walk::inside(self, 0, path(&location.path)),
            Origin::WorkingDirectory => Walk::from_root(self, &self.working_directory.join(path(&location.path))),
            Origin::Root => match self.alias_of(path(&location.path)) {
                Some((tree, rest)) => Walk::inside(self, tree, &rest),
                None => Walk::from_root(self, path(&location.path)),
            },
        };
        walk.finish().map_err(|stop| stop.into_cause(recorded, &shown))
    }

    fn alias_of(&self, absolute: &Path) -> Option<(usize, PathBuf)> {
        self.trees.iter().enumerate().find_map(|(index, tree)| {
            let rest = absolute.strip_prefix(tree.alias.as_ref()?).ok()?;
            // Stripping drops a slash at the end, which asks for a directory.
            let rest = if absolute.as_os_str().as_bytes().ends_with(b"/") { rest.join("") } else { rest.to_path_buf() };
            Some((index, rest))
        })
    }

    pub(super) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// The tree whose root is exactly this absolute path without symbolic links.
    pub(super) fn tree_at(&self, canonical: &Path) -> Option<usize> {
        self.trees.iter().position(|tree| tree.canonical == canonical)
    }

    /// True if something allowed lies below this absolute path.
    pub(super) fn leads_to_allowed(&self, ancestor: &Path) -> bool {
        self.trees.iter().any(|tree| tree.canonical.starts_with(ancestor))
            || self.files.iter().any(|file| file.canonical.starts_with(ancestor))
    }

    pub(super) fn is_named_file(&self, canonical: &Path) -> bool {
        self.files.iter().any(|file| file.canonical == canonical)
    }
}

pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
