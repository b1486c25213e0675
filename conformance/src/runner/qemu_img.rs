//! An installed qemu-img: judged by the harness to test the harness, and asked for its opinion about the product's results.

use super::{Program, RunOutput, TIME_LIMIT, format_of, run};
use crate::case::Case;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One qemu-img binary and its version.
#[derive(Clone, Debug)]
pub struct QemuImg {
    binary: PathBuf,
    version: String,
}

impl QemuImg {
    /// The binaries of INSTAR_QEMU_IMG (paths, colon-separated) or the one in PATH; those that answer `--version`.
    pub fn installed() -> Vec<Self> {
        let paths: Vec<PathBuf> = match std::env::var_os("INSTAR_QEMU_IMG") {
            Some(list) => std::env::split_paths(&list).collect(),
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path)
                    .map(|folder| folder.join("qemu-img"))
                    .filter(|p| p.is_file())
                    .take(1)
                    .collect()
            }
        };
        paths.into_iter().filter_map(Self::at).collect()
    }

    /// Asks one binary for its version.
    pub fn at(binary: PathBuf) -> Option<Self> {
        let output = Command::new(&binary).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.strip_prefix("qemu-img version ")?.split([' ', '\n']).next()?.to_owned();
        Some(Self { binary, version })
    }

    /// Path of the binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The version that it states, like `10.0.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs it with any arguments in `folder`.
    pub fn ask(&self, folder: &Path, arguments: &[&str]) -> io::Result<RunOutput> {
        let mut command = Command::new(&self.binary);
        run(command.arg0("qemu-img").current_dir(folder).env("LC_ALL", "C").args(arguments), TIME_LIMIT)
    }
}

impl Program for QemuImg {
    fn run_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput> {
        let mut arguments = vec![case.op.word()];
        arguments.extend(case.argv.iter().map(String::as_str));
        self.ask(folder, &arguments)
    }

    fn info(&self, _version: &str, folder: &Path, file: &str) -> io::Result<RunOutput> {
        let mut arguments = vec!["info", "--output=json"];
        if let Some(format) = format_of(file) {
            arguments.extend(["-f", format]);
        }
        arguments.push(file);
        self.ask(folder, &arguments)
    }

    fn describe(&self, case: &Case) -> String {
        format!("cargo test -p conformance --test qemu_img_self_test -- --exact {}", case.name)
    }
}
