//! Builds the guest programs and puts them where `session` embeds them from.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

#[path = "build/guests.rs"]
mod guests;

const PROGRAMS: [&str; 4] = ["info", "commit", "rebase", "map"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let guests_dir = manifest_dir.parent().ok_or("the package has no parent directory")?.join("guests");
    for watched in ["abi", "formats", "plan", "exec", "runtime"] {
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).join("src").display());
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).join("Cargo.toml").display());
    }
    for watched in ["bin/info", "bin/commit", "bin/rebase", "bin/map", "bin/link.ld", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build/guests.rs");

    let built = guests::build(&env::var("CARGO")?, &guests_dir, &out_dir.join("guests"), &PROGRAMS)?;
    for program in PROGRAMS {
        fs::copy(built.join(program), out_dir.join(format!("{program}.bin")))?;
    }
    Ok(())
}
