//! The jail: what a process gives up right before a guest's first instruction, when all files are open.
//!
//! The policy is data with a reason beside each entry: system calls in `calls`, limits in `limits`, variables of the
//! environment in `environment`. Knows descriptors and processes, nothing of images or machines. `worker`, `descriptors` and
//! `environment` hold the `unsafe` of this module: forking, closing what nobody owns, wiping strings.

pub mod calls;
mod descriptors;
mod environment;
mod filter;
mod layers;
mod limits;
mod paths;
pub mod worker;

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

pub use layers::{Layer, Layers};

/// A jail that can be closed around the calling process, which must have one thread only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jail<'a> {
    /// A directory out of which one file will still be removed.
    pub removes_from: Option<BorrowedFd<'a>>,
    /// Nothing runs where one of the layers is missing.
    pub must_be_whole: bool,
}

impl Jail<'_> {
    /// Closes all descriptors but these and wipes the environment. Whoever owns one of the others must not use it again.
    pub fn leave_behind(&self, mut keeps: Vec<RawFd>) {
        keeps.extend(self.removes_from.as_ref().map(AsRawFd::as_raw_fd));
        descriptors::close_all_but(keeps);
        environment::wipe();
    }

    /// Closes the jail: from here on nothing can be opened, and only the calls of [`calls::CALLS`] are possible.
    ///
    /// # Errors
    /// If a layer is missing and none may be: a sentence for the user.
    pub fn close(&self) -> Result<Layers, String> {
        limits::set_before();
        let no_new_privileges = layers::no_new_privileges();
        let landlock = paths::shut(self.removes_from);
        limits::set_after();
        if self.must_be_whole {
            // The last layer would not let the message out if it were to fail on the way.
            no_new_privileges.demand().and_then(|()| landlock.demand())?;
        }
        let seccomp = filter::install(self.removes_from.is_some());
        if self.must_be_whole {
            seccomp.demand()?;
        }
        Ok(Layers { no_new_privileges, landlock, seccomp })
    }
}
