//! Writes the man pages and the completions for bash, zsh and fish: `cargo run -p instar --example manuals -- FOLDER`.
//!
//! An example, so that what renders them is no part of the program.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

mod pages;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("usage: manuals FOLDER")?);
    for part in [pages::MAN, pages::COMPLETIONS] {
        fs::create_dir_all(folder.join(part))?;
    }
    for (name, bytes) in pages::files()? {
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
