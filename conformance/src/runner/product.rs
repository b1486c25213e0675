//! The built `instar` binary: from INSTAR_BIN, or built by cargo once a test run.

use super::{Program, RunOutput, TIME_LIMIT, format_of, run};
use crate::case::Case;
use crate::paths;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The product as a black box.
#[derive(Clone, Debug)]
pub struct Product {
    binary: PathBuf,
    sandbox: Sandbox,
}

/// Which of its sandboxes the product uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// The one that it uses if nobody says otherwise.
    Kvm,
    /// The one that needs no KVM.
    Process,
}

impl Product {
    /// The same product with another of its sandboxes.
    #[must_use]
    pub fn in_sandbox(self, sandbox: Sandbox) -> Self {
        Self { sandbox, ..self }
    }

    /// Takes the binary of INSTAR_BIN or builds it in the same profile as this test.
    pub fn find() -> Result<Self, String> {
        Self::find_binary().map(|binary| Self { binary, sandbox: Sandbox::Kvm })
    }

    fn find_binary() -> Result<PathBuf, String> {
        if let Some(path) = std::env::var_os("INSTAR_BIN") {
            let binary = PathBuf::from(path).canonicalize().map_err(|e| format!("INSTAR_BIN: {e}"))?;
            return Ok(binary);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(paths::root());
        command.args(["build", "--quiet", "--package", "instar", "--bin", "instar", "--message-format", "json"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = command.output().map_err(|e| format!("cargo build: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo build -p instar failed:\n{}", String::from_utf8_lossy(&output.stderr)));
        }
        let binary = String::from_utf8_lossy(&output.stdout).lines().rev().find_map(executable);
        binary.ok_or_else(|| "cargo build -p instar named no executable".into())
    }

    /// Path of the binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Asks what the case's command would do, as JSON.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn plan_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput> {
        let mut command = self.command(folder);
        run(command.args(["plan", case.op.word(), "--output=json", "--errors=human"]).args(&case.argv), TIME_LIMIT)
    }

    /// The command line of a case, ready to be run in `folder`.
    pub fn case_command(&self, case: &Case, folder: &Path) -> Command {
        let mut command = self.command(folder);
        command.arg(case.op.word()).args(&case.argv);
        command
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        // qemu-img follows every name that an image records; the private folder is all that a fixture can mean.
        command.arg0("instar").current_dir(folder).env("INSTAR_ALLOW_DIRS", folder).env("LC_ALL", "C");
        match self.sandbox {
            Sandbox::Kvm => command.env_remove("INSTAR_SANDBOX"),
            Sandbox::Process => command.env("INSTAR_SANDBOX", "process"),
        };
        command
    }
}

/// The executable that a line of cargo's JSON messages names.
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message.pointer("/target/name")? != "instar" {
        return None;
    }
    Some(PathBuf::from(message.get("executable")?.as_str()?))
}

impl Program for Product {
    fn run_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput> {
        run(&mut self.case_command(case, folder), TIME_LIMIT)
    }

    fn info(&self, version: &str, folder: &Path, file: &str) -> io::Result<RunOutput> {
        let mut command = self.command(folder);
        command.args(["info", "--qemu-version", version, "--output=json"]);
        if let Some(format) = format_of(file) {
            command.args(["-f", format]);
        }
        run(command.arg(file), TIME_LIMIT)
    }

    fn is_shown_to_qemu_img(&self) -> bool {
        self.sandbox == Sandbox::Kvm
    }

    fn describe(&self, case: &Case) -> String {
        let test = match self.sandbox {
            Sandbox::Kvm => format!("{}_baseline_matrix", case.op.word()),
            Sandbox::Process => "process_matrix".to_owned(),
        };
        format!("cargo test -p conformance --test {test} -- --exact {}", case.name)
    }
}
