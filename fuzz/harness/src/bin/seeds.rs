//! Writes the seeds of every target into folders of a fuzzer's corpus: `seeds FOLDER`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use instar_fuzz::generators::seeds;

/// Names as images record them, from plain to evil.
const NAMES: [&str; 12] = [
    "base",
    "deeper/base",
    "./base",
    "in/base",
    "../secret",
    "out/secret",
    "secret",
    "/etc/passwd",
    "file:base",
    "nbd://host/export",
    r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base"}}"#,
    r#"json:{"file.filename":"../secret"}"#,
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("usage: seeds FOLDER")?);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder.join(target))?;
        fs::write(folder.join(target).join(name), bytes)
    };
    for seed in seeds::all()? {
        write(seed.target, seed.name, &seed.bytes)?;
    }
    for (number, name) in NAMES.iter().enumerate() {
        write("path_policy", &format!("name-{number}"), name.as_bytes())?;
    }
    Ok(())
}
