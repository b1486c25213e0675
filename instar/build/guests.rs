// Builds guest programs: shared by the build script and by the tests that bring a program of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds programs of the nested workspace `guests` and returns the directory that holds them.
pub(crate) fn build(cargo: &str, workspace: &Path, target_dir: &Path, programs: &[&str]) -> Result<PathBuf, String> {
    let script = workspace.join("bin/link.ld");
    let mut flags = vec!["-Crelocation-model=static".to_string()];
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        flags.push(format!("-Clink-arg={argument}"));
    }
    flags.extend(["-Clink-arg=-T".to_string(), format!("-Clink-arg={}", script.display())]);
    // Panic messages name source files: from the project's root or cargo's folder on, wherever these lie.
    if let Some(root) = workspace.parent() {
        flags.push(format!("--remap-path-prefix={}/=", root.display()));
    }
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}/=cargo/", home.display()));
    }
    let mut command = Command::new(cargo);
    command.arg("build").arg("--release").args(["--target", TARGET]).arg("--target-dir").arg(target_dir);
    command.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    for program in programs {
        command.args(["--package", program]);
    }
    // What was meant for the host program (coverage, sanitizers, lints, another target) is not meant for the guests.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let inherited = name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_FEATURE_")
            || name.starts_with("CARGO_TARGET_")
            || name.starts_with("CARGO_BUILD_");
        if inherited {
            command.env_remove(&*name);
        }
    }
    for name in
        ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "LLVM_PROFILE_FILE", "__CARGO_FIX_PLZ"]
    {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = command.status().map_err(|error| format!("cannot run {cargo}: {error}"))?;
    if !status.success() {
        return Err(format!("building the guest programs {programs:?} failed ({status})"));
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Where cargo keeps the sources of other projects' crates.
fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}
