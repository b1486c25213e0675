//! Shows the main job on a real image: unpacks a fixture into a private folder, commits its overlay, prints before and after.

use std::path::Path;
use std::process::{Command, ExitCode};

use conformance::fixture::Workspace;
use conformance::runner::Product;

/// The fixture that is shown: an overlay of 8 MiB that qemu-img made, with data and zero clusters over a base.
const FIXTURE: &str = "plain";

fn main() -> ExitCode {
    match demonstrate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("demo: {text}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate() -> Result<(), String> {
    let product = Product::find()?;
    let workspace = Workspace::unpack(FIXTURE).map_err(|error| error.to_string())?;
    let shown = |title: &str| -> Result<(), String> {
        println!("--- {title}");
        for image in ["overlay.qcow2", "base.qcow2"] {
            let path = workspace.path().join(image);
            let bytes = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?.len();
            println!("{image}: {bytes} bytes");
        }
        run(product.binary(), workspace.path(), &["info", "overlay.qcow2"])
    };
    shown("before")?;
    println!("--- instar commit --output json overlay.qcow2");
    run(product.binary(), workspace.path(), &["commit", "--output", "json", "overlay.qcow2"])?;
    shown("after")
}

fn run(binary: &Path, folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(binary)
        .args(arguments)
        .current_dir(folder)
        .status()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    if status.success() { Ok(()) } else { Err(format!("instar {} failed: {status}", arguments.join(" "))) }
}
