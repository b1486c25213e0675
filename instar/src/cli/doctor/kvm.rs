//! Whether the sandbox can be had: the device of KVM, a virtual machine, a process in its place, and the smallest job that a
//! guest can do.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use instar_abi::job::format;

use super::finding::{Finding, Need, Outcome, Trouble};
use super::remedy;
use crate::cli::inspector::Inspector;
use crate::cli::sandbox::Sandbox;
use crate::files::chain::{Finding as Found, Inspect};
use crate::files::{Access, ImageFile, open_operand, system_text};
use crate::jail::Runner;
use crate::vm::{Hypervisor, VmError, probe_process};

/// Length of the image that a guest looks at.
const IMAGE_BYTES: usize = 4096;

/// All of them; what guests do not run on need not work. Without the device neither a machine nor a guest on one is tried.
pub(super) fn all(device: &Path, directory: &Path, runner: Runner, sandbox: &mut impl Sandbox) -> Vec<Finding> {
    let need = |kind, lost| if kind == runner { Need::Always } else { Need::For(lost) };
    let for_kvm = need(Runner::Kvm, "the stronger sandbox, --sandbox kvm");
    let opened = open(device);
    let is_open = opened.is_ok();
    let mut findings = vec![Finding::new("kvm", for_kvm, opened)];
    if is_open {
        findings.push(Finding::new("machine", for_kvm, make_machine(device)));
    }
    let for_process = need(Runner::Process, "running without KVM, --sandbox process");
    findings.push(Finding::new("process", for_process, make_process()));
    if is_open || runner == Runner::Process {
        findings.push(Finding::new("sandbox", Need::Always, run_job(directory, sandbox)));
    }
    findings
}

/// Makes a process that a guest could run in.
fn make_process() -> Outcome {
    match probe_process() {
        Ok(layers) => Ok(layers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        Err(error) => Err(Trouble::new(
            with_source(&error),
            "let processes trace their children (ptrace) and filter their system calls (seccomp)",
        )),
    }
}

/// Opens the device, and asks it for its version.
pub(super) fn open(device: &Path) -> Outcome {
    let shown = device.display();
    if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
        return Err(Trouble::new(format!("'{shown}': {}", system_text(&error)), remedy::for_device(device, &error)));
    }
    // Nobody has looked at the version yet; whatever answers with another one, or not at all, is not what is needed.
    Hypervisor::open_at(device).map_err(|error| Trouble::new(error.to_string(), remedy::OTHER_DEVICE))?;
    Ok(format!("'{shown}' speaks version {} of its interface", Hypervisor::API_VERSION))
}

/// Makes a virtual machine.
pub(super) fn make_machine(device: &Path) -> Outcome {
    let start = Instant::now();
    let made = Hypervisor::open_at(device).and_then(|hypervisor| hypervisor.create_vm());
    made.map_err(|error| Trouble::new(error.to_string(), remedy::for_machine()))?;
    Ok(format!("made in {}", milliseconds(start)))
}

/// Has a guest look at an image.
pub(super) fn run_job(directory: &Path, sandbox: &mut impl Sandbox) -> Outcome {
    let image = image(directory)
        .map_err(|cause| Trouble::new(cause, "name a directory in which files can be made: instar doctor DIR"))?;
    let start = Instant::now();
    let looked = Inspector(sandbox).inspect(&image, format::RAW);
    let time = milliseconds(start);
    let stopped = |cause| Err(Trouble::new(cause, remedy::for_machine()));
    match looked {
        Ok(summary) if summary.virtual_size_bytes == IMAGE_BYTES as u64 => {
            Ok(format!("a guest looked at an image in {time}"))
        }
        Ok(summary) => {
            stopped(format!("a disk of {} bytes was seen, not of {IMAGE_BYTES}", summary.virtual_size_bytes))
        }
        Err(Found::Image(cause)) => stopped(cause.to_string()),
        Err(Found::Sandbox(error)) => stopped(with_source(&error)),
    }
}

/// An open image that has no name any more.
fn image(directory: &Path) -> Result<ImageFile, String> {
    let shown = directory.display();
    let failed = |error| format!("'{shown}': {}", system_text(&error));
    let mut named = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    let zeros = [0; IMAGE_BYTES];
    named.write_all(&zeros).map_err(failed)?;
    open_operand(named.path().as_os_str().as_bytes(), Access::Unlocked).map_err(|cause| cause.to_string())
}

fn with_source(error: &VmError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn milliseconds(start: Instant) -> String {
    format!("{:.1} ms", start.elapsed().as_secs_f64() * 1000.0)
}
