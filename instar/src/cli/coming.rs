//! The job that a command ends with: its machine gets ready step by step, while other processes look at the images.

use crate::program::GuestProgram;
use crate::vm::{Platform, Prepared, VmError};

use instar_abi::memory::DEFAULT_MEMORY_BYTES;

/// The job that comes last, and how far its machine is.
#[derive(Default)]
pub(super) enum Coming {
    /// Nobody knows which job it is, or its machine is in use.
    #[default]
    Unknown,
    /// There is no machine yet.
    Expected(GuestProgram<'static>),
    /// There is one, or a reason why not, which is told when it is needed.
    Made(GuestProgram<'static>, Result<Prepared, VmError>),
    /// There is one that has nothing more to do before its job is known, or a reason.
    Warm(Result<Prepared, VmError>),
}

impl Coming {
    /// Whether it is known, but nothing is done for it yet.
    pub(super) fn is_expected(&self) -> bool {
        matches!(self, Self::Expected(_))
    }

    /// Takes the next step. Each is to be taken while something else is waited for: together they take longer than looking at an image, and
    /// would be waited for themselves.
    pub(super) fn get_ready(&mut self, platform: &Platform) {
        *self = match std::mem::take(self) {
            Self::Expected(program) => Self::Made(program, program.prepare(platform, DEFAULT_MEMORY_BYTES)),
            Self::Made(program, machine) => Self::Warm(machine.and_then(|machine| program.warm_up(machine, platform))),
            as_it_is => as_it_is,
        };
    }

    /// The machine, if there is one.
    ///
    /// # Errors
    /// Those of the steps taken so far.
    pub(super) fn take(&mut self) -> Result<Option<Prepared>, VmError> {
        match std::mem::take(self) {
            Self::Unknown | Self::Expected(_) => Ok(None),
            Self::Made(_, machine) | Self::Warm(machine) => machine.map(Some),
        }
    }
}
