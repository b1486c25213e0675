//! `instar doctor`: tries what instar needs of this machine and of one directory, and says what helps where it is missing.
//!
//! Every check does the real thing: it makes a virtual machine, runs a guest, locks and writes a file. The file has no name
//! any more when it is used, so nothing is left behind. The jail comes last, for it is closed around this process.

mod disk;
mod finding;
mod jail;
mod kvm;
mod remedy;
mod render;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::arguments::DoctorArguments;
use super::error::Failure;
use super::output::{Form, print};
use super::runner;
use super::sandbox::Sandbox;
use crate::jail::Runner;
use crate::vm::KVM_DEVICE;
use finding::Finding;

const COMMAND: &str = "doctor";

/// Runs the command.
///
/// # Errors
/// Something that nothing works without does not work here; the result has been printed then.
pub(super) fn run(arguments: &DoctorArguments, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
    let form = Form::parse(COMMAND, arguments.output.as_deref())?;
    let directory = directory(&arguments.directories)?;
    let device = match runner::choose(arguments.jail.sandbox.as_deref())? {
        Runner::Kvm => Some(Path::new(KVM_DEVICE)),
        Runner::Process => None,
    };
    let mut findings = kvm::all(device, &directory, sandbox);
    findings.extend(disk::all(&directory));
    findings.extend(jail::all(arguments.jail.required));
    match form {
        Form::Human => print(render::human(&findings, &directory).as_bytes())?,
        Form::Json => print(render::json(&findings, &directory).as_bytes())?,
    }
    conclude(&findings)
}

fn directory(named: &[PathBuf]) -> Result<PathBuf, Failure> {
    match named {
        [] => Ok(PathBuf::from(".")),
        [directory] => Ok(directory.clone()),
        _ => Err(Failure::usage(COMMAND, "Expecting at most one directory")),
    }
}

fn conclude(findings: &[Finding]) -> Result<(), Failure> {
    let missing: Vec<&str> =
        findings.iter().filter(|finding| finding.is_fatal()).map(|finding| finding.check).collect();
    if missing.is_empty() { Ok(()) } else { Err(Failure::Unfit(missing.join(", "))) }
}
