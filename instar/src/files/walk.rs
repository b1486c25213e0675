//! Follows a name component by component, each relative to an open directory, so that no symbolic link and no rename
//! on the way can lead out of the allowed trees unseen.
//!
//! Above the trees a position is only a path: it must stay an ancestor of something allowed, and nothing is looked up.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::error::Cause;
use super::policy::Gate;

/// The most symbolic links in one name, the system's own limit.
const MAX_LINKS: usize = 40;

/// The place that a name leads to.
#[derive(Debug)]
pub(super) enum Found<'gate> {
    /// A regular file in an open directory of an allowed tree.
    Entry {
        /// The directory that holds it.
        directory: Directory<'gate>,
        /// Its name there: one component.
        name: OsString,
        /// Its absolute path without symbolic links.
        canonical: PathBuf,
    },
    /// A path that the user answers for.
    Named(PathBuf),
}

/// An open directory: the root of a tree, or one that the walk has opened below it.
#[derive(Debug)]
pub(super) enum Directory<'gate> {
    Root(BorrowedFd<'gate>),
    Below(OwnedFd),
}

impl AsFd for Directory<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(directory) => *directory,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The next step would leave what is allowed.
    Outside,
    /// The name leads to something that is no regular file.
    NotRegular,
    /// The system's answer about a place inside of a tree.
    System(Errno),
}

impl Stop {
    pub(super) fn into_cause(self, recorded: &[u8], shown: &[u8]) -> Cause {
        match self {
            Self::Outside => Cause::Forbidden(recorded.to_vec()),
            Self::NotRegular => Cause::NotRegular(shown.to_vec()),
            Self::System(errno) => Cause::system(shown, &io::Error::from(errno)),
        }
    }
}

#[derive(Debug)]
enum Position {
    /// Above the trees: an absolute path without symbolic links, never looked up.
    Above(PathBuf),
    /// In a tree.
    Inside(Inside),
}

/// A directory in a tree.
#[derive(Debug)]
struct Inside {
    tree: usize,
    /// The directories between the tree's root and this one, this one included.
    below: Vec<(OsString, OwnedFd)>,
}

/// What one component turned out to be.
enum Step {
    Link(OsString),
    Directory(OwnedFd),
    File,
}

#[derive(Debug)]
pub(super) struct Walk<'gate> {
    gate: &'gate Gate,
    position: Position,
    rest: VecDeque<OsString>,
    links: usize,
}

impl<'gate> Walk<'gate> {
    /// A walk from the root of a tree.
    pub(super) fn inside(gate: &'gate Gate, tree: usize, path: &Path) -> Self {
        let position = Position::Inside(Inside { tree, below: Vec::new() });
        Self { gate, position, rest: components(path), links: 0 }
    }

    /// A walk along an absolute path.
    pub(super) fn from_root(gate: &'gate Gate, path: &Path) -> Self {
        Self { gate, position: at(gate, PathBuf::from("/")), rest: components(path), links: 0 }
    }

    /// Takes all steps.
    pub(super) fn finish(mut self) -> Result<Found<'gate>, Stop> {
        while let Some(component) = self.rest.pop_front() {
            if component == ".." {
                self.position = self.go_up();
            } else if component != "."
                && let Some(found) = self.go_down(component)?
            {
                return Ok(found);
            }
        }
        // The name ended at a directory.
        match self.position {
            Position::Above(_) => Err(Stop::Outside),
            Position::Inside(_) => Err(Stop::NotRegular),
        }
    }

    fn go_up(&mut self) -> Position {
        let path = match &mut self.position {
            Position::Inside(inside) => match inside.below.pop() {
                Some(_) => return Position::Inside(Inside { tree: inside.tree, below: take(&mut inside.below) }),
                None => self.gate.trees()[inside.tree].canonical.as_path(),
            },
            Position::Above(path) => path.as_path(),
        };
        at(self.gate, path.parent().unwrap_or(path).to_path_buf())
    }

    fn go_down(&mut self, component: OsString) -> Result<Option<Found<'gate>>, Stop> {
        let inside = match &mut self.position {
            Position::Inside(inside) => inside,
            Position::Above(path) => {
                let next = path.join(&component);
                if self.rest.is_empty() && self.gate.is_named_file(&next) {
                    return Ok(Some(Found::Named(next)));
                }
                if !self.gate.leads_to_allowed(&next) {
                    return Err(Stop::Outside);
                }
                self.position = at(self.gate, next);
                return Ok(None);
            }
        };
        match look_up(inside.directory(self.gate), &component, self.rest.is_empty())? {
            Step::Link(target) => self.follow(Path::new(&target))?,
            Step::Directory(opened) => inside.below.push((component, opened)),
            Step::File => {
                let canonical = inside.canonical(self.gate).join(&component);
                return Ok(Some(Found::Entry {
                    directory: inside.take_directory(self.gate),
                    name: component,
                    canonical,
                }));
            }
        }
        Ok(None)
    }

    fn follow(&mut self, target: &Path) -> Result<(), Stop> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Stop::System(Errno::ELOOP));
        }
        if target.is_absolute() {
            self.position = at(self.gate, PathBuf::from("/"));
        }
        for component in components(target).into_iter().rev() {
            self.rest.push_front(component);
        }
        Ok(())
    }
}

/// The position at an absolute path without symbolic links, outside of the trees or at the root of one.
fn at(gate: &Gate, path: PathBuf) -> Position {
    match gate.tree_at(&path) {
        Some(tree) => Position::Inside(Inside { tree, below: Vec::new() }),
        None => Position::Above(path),
    }
}

impl Inside {
    fn directory<'a>(&'a self, gate: &'a Gate) -> BorrowedFd<'a> {
        self.below.last().map_or(gate.trees()[self.tree].directory.as_fd(), |(_, opened)| opened.as_fd())
    }

    fn take_directory<'gate>(&mut self, gate: &'gate Gate) -> Directory<'gate> {
        match self.below.pop() {
            Some((_, opened)) => Directory::Below(opened),
            None => Directory::Root(gate.trees()[self.tree].directory.as_fd()),
        }
    }

    fn canonical(&self, gate: &Gate) -> PathBuf {
        let mut path = gate.trees()[self.tree].canonical.clone();
        path.extend(self.below.iter().map(|(name, _)| name));
        path
    }
}

/// Looks at one component in an open directory; opens it if it is a directory, and never anything else.
fn look_up(directory: BorrowedFd<'_>, component: &OsStr, last: bool) -> Result<Step, Stop> {
    let status = fstatat(directory, component, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(Stop::System)?;
    match SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFLNK => readlinkat(directory, component).map(Step::Link).map_err(Stop::System),
        SFlag::S_IFDIR => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(directory, component, flags, Mode::empty()).map(Step::Directory).map_err(Stop::System)
        }
        _ if !last => Err(Stop::System(Errno::ENOTDIR)),
        SFlag::S_IFREG => Ok(Step::File),
        _ => Err(Stop::NotRegular),
    }
}

/// The components of a path, `.` and `..` among them; a slash at the end counts as one more `.`.
fn components(path: &Path) -> VecDeque<OsString> {
    let bytes = path.as_os_str().as_bytes();
    let mut parts: VecDeque<OsString> = bytes
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .map(|part| OsStr::from_bytes(part).to_os_string())
        .collect();
    if bytes.ends_with(b"/") {
        parts.push_back(OsString::from("."));
    }
    parts
}
