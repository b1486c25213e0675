//! The unsafe rebase that is tried before the image is looked at: one sandbox does all of it if the image is qcow2 and needs
//! nothing but another header. If it turns out that there is more to it, nothing has happened yet.

use instar_abi::job::{RebaseJob, format, operation, rebase_flag};
use instar_abi::memory::DEFAULT_MEMORY_BYTES;
use instar_abi::report::error_kind;

use super::wanted::{Done, Wanted};
use super::{Pace, RebaseFailure, report_in};
use crate::cli::error::Failure;
use crate::cli::job::Devices;
use crate::cli::operand::OpenOperand;
use crate::cli::sandbox::Sandbox;
use crate::cli::stage::Stage;
use crate::code::Code;
use crate::files::{ImageKeys, OpenError, driver};

/// Tries it; `None` if it has to be done in the ordinary way.
///
/// # Errors
/// If the sandbox stopped, or the header could not be read or written.
pub(super) fn attempt(
    operand: &OpenOperand,
    wanted: &Wanted<'_>,
    pace: Pace,
    sandbox: &mut impl Sandbox,
) -> Result<Option<Done>, Failure> {
    let is_known = wanted.format_name.is_none_or(|name| driver::number(name).is_some());
    let has_keys = operand.keys != ImageKeys::default() || !operand.secrets.are_none();
    let may_be_plain = matches!(operand.format, format::PROBE | format::QCOW2) && !has_keys;
    if !wanted.is_unsafe || wanted.compresses || !is_known || !may_be_plain || wanted.check().is_err() {
        return Ok(None);
    }
    let devices = Devices::single(&operand.image, &[], operand.format).written(pace.flushing);
    let part = wanted.part(0, 1);
    let job = devices.job(operation::REBASE, &RebaseJob { flags: part.flags | rebase_flag::IF_PLAIN, ..part });
    let stage = Stage::new(operation::REBASE, &devices, &job, false);
    let image = || operand.image.name().to_vec();
    let answer =
        sandbox.run_apart(stage, DEFAULT_MEMORY_BYTES).map_err(|error| Failure::Sandbox { image: image(), error })?;
    let Some(answer) = answer else { return Ok(None) };
    match answer.error() {
        None => {
            let report = report_in(Some(&answer), image)?;
            Ok(Some(Done { overlay: image(), format: format::QCOW2, report }))
        }
        Some(error) if error.kind == error_kind::NOT_PLAIN => Ok(None),
        Some(error) if error.kind == error_kind::OPEN => {
            let name = image();
            let cause = error.into_cause(&name);
            Err(Failure::Open(OpenError { image: name, backing_depth: 0, cause }))
        }
        Some(error) if error.kind == error_kind::STORAGE => {
            Err(Failure::Rebase(RebaseFailure::Write { code: error.code(Code::Io), text: error.text }))
        }
        Some(error) => Err(Failure::Sandbox { image: image(), error: error.into_stop() }),
    }
}
