//! The jail: what a process gives up right before a guest's first instruction, when all files are open.
//!
//! The policy is data with a reason beside each entry: system calls in `calls`, limits in `limits`, variables of the
//! environment in `environment`. `guest` is the narrower jail of a process in which a guest itself runs. Knows descriptors and
//! processes, nothing of images or machines. `fork`, `allocator`, `descriptors`, `environment` and `guest` hold the `unsafe` of this
//! module: forking, an allocator setting, closing what nobody owns, wiping strings, bare system calls.

mod allocator;
pub mod calls;
pub mod crew;
mod descriptors;
mod environment;
mod filter;
mod fork;
pub(crate) mod guest;
mod layers;
mod limits;
mod paths;
pub mod spare;
pub mod worker;

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use calls::Who;
pub use layers::{Layer, Layers};

/// What a guest runs on inside of a jail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runner {
    /// KVM.
    #[default]
    Kvm,
    /// A process of its own, which the jailed one traces.
    Process,
}

/// What a jailed process is for.
#[derive(Clone, Copy, Debug, Default)]
pub enum Purpose<'a> {
    /// It looks at images and changes nothing.
    #[default]
    Looking,
    /// It rehearses what would be done to images, and writes nothing but scratch files.
    Rehearsing,
    /// It writes images.
    Writing,
    /// It writes images, and removes one file out of this directory.
    Removing(BorrowedFd<'a>),
}

/// A jail that can be closed around the calling process, which must have one thread only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jail<'a> {
    /// What the process is for.
    pub purpose: Purpose<'a>,
    /// What a guest runs on.
    pub runner: Runner,
    /// Nothing runs where one of the layers is missing.
    pub must_be_whole: bool,
}

/// Makes what all jails of this process and of those forked from it have in common.
pub fn prepare(runner: Runner) {
    allocator::share();
    filter::prepare(runner);
}

impl Jail<'_> {
    /// Closes all descriptors but these and wipes the environment. Whoever owns one of the others must not use it again.
    pub fn leave_behind(&self, mut keeps: Vec<RawFd>) {
        if let Purpose::Removing(directory) = self.purpose {
            keeps.push(directory.as_raw_fd());
        }
        descriptors::close_all_but(keeps);
        environment::wipe();
    }

    /// Closes the jail: from here on nothing can be opened, and only the calls on the lists of [`calls`] are possible.
    ///
    /// # Errors
    /// If a layer is missing and none may be: a sentence for the user.
    pub fn close(&self) -> Result<Layers, String> {
        let (removes_from, who) = match self.purpose {
            Purpose::Looking => (None, Who::All),
            Purpose::Rehearsing => (None, Who::Rehearsers),
            Purpose::Writing => (None, Who::Writers),
            Purpose::Removing(directory) => (Some(directory), Who::Removers),
        };
        limits::set_before();
        let no_new_privileges = layers::no_new_privileges();
        let landlock = paths::shut(removes_from);
        limits::set_after();
        let seccomp = filter::install(who, self.runner);
        let layers = Layers { no_new_privileges, landlock, seccomp };
        self.demand(layers.all())?;
        Ok(layers)
    }

    /// Makes sure that none of these is missing, if none may be.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn demand<'a>(&self, layers: impl IntoIterator<Item = &'a Layer>) -> Result<(), String> {
        if self.must_be_whole { layers.into_iter().try_for_each(Layer::demand) } else { Ok(()) }
    }
}
