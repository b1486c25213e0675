//! Records another qemu-img: `record --qemu-img PATH [--reference PATH] [--out FOLDER] [CASE…]`.

use conformance::case::{self, Operation};
use conformance::paths;
use conformance::recorder;
use conformance::runner::QemuImg;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: record --qemu-img PATH [--reference PATH] [--out FOLDER] [CASE...]\n  --qemu-img   the program to record\n  --reference  the qemu-img whose `check` counts (default: the one in PATH, else the recorded program)\n  --out        where <operation>/<case>.json go (default: conformance-recordings in the target directory)";

fn run() -> Result<(), Box<dyn Error>> {
    let (mut program, mut reference) = (None, None);
    let mut out = paths::results("conformance-recordings");
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--qemu-img" => program = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            "--reference" => reference = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            "--out" => out = arguments.next().ok_or(USAGE)?.into(),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            option if option.starts_with('-') => return Err(USAGE.into()),
            name => names.push(name.to_owned()),
        }
    }
    let find = |path: PathBuf| {
        let shown = path.display().to_string();
        QemuImg::at(path).ok_or_else(|| format!("{shown} does not answer --version as qemu-img does"))
    };
    let program = find(program.ok_or(USAGE)?)?;
    let reference = match reference {
        Some(path) => find(path)?,
        None => QemuImg::installed().into_iter().next().unwrap_or_else(|| program.clone()),
    };
    let mut cases = case::load_all(Operation::Commit)?;
    cases.extend(case::load_all(Operation::Rebase)?);
    if let Some(unknown) = names.iter().find(|name| !cases.iter().any(|case| case.name == **name)) {
        return Err(format!("there is no case {unknown}").into());
    }
    cases.retain(|case| names.is_empty() || names.contains(&case.name));
    for case in &cases {
        recorder::write(&recorder::record(case, &program, &reference)?, &out)?;
        println!("{} {}", program.version(), case.name);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
