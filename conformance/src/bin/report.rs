//! Runs the matrix and writes how close the product is: totals on the terminal, `report.json` and `report.html` in a folder.

use conformance::paths;
use conformance::report::Report;
use conformance::report_page;
use conformance::runner::Product;
use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "usage: report [--out FOLDER] [FILTER]\n  FOLDER  where report.json and report.html go (default: conformance-report in the target directory)\n  FILTER  only cases whose name contains it";

fn run() -> Result<(), Box<dyn Error>> {
    let mut out = paths::results("conformance-report");
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => out = arguments.next().ok_or(USAGE)?.into(),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            option if option.starts_with('-') => return Err(USAGE.into()),
            text => text.clone_into(&mut filter),
        }
    }
    let report = Report::run(&Product::find()?, &filter)?;
    print!("{}", report.terminal());
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("report.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    std::fs::write(out.join("report.html"), report_page::html(&report))?;
    println!("written: {} and {}", out.join("report.json").display(), out.join("report.html").display());
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
