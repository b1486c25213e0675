//! Builds the guest programs and puts them where `session` embeds them from; tells how the program is linked.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "build/guests.rs"]
mod guests;
#[path = "build/self_contained.rs"]
mod self_contained;

/// Set by docs.rs, which only renders documentation: it has no network, and of a package's sources only the package itself, without
/// the guests. Files without content stand for their programs there; nothing that is built so can run a guest.
const DOCS_ONLY_VARIABLE: &str = "DOCS_RS";

const PROGRAMS: [&str; 5] = ["info", "commit", "rebase", "map", "codec"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let guests_dir = manifest_dir.parent().ok_or("the package has no parent directory")?.join("guests");
    for watched in ["abi", "formats", "plan", "exec", "runtime"] {
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).join("src").display());
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).join("Cargo.toml").display());
    }
    for watched in
        ["bin/info", "bin/commit", "bin/rebase", "bin/map", "bin/codec", "bin/link.ld", "Cargo.toml", "Cargo.lock"]
    {
        println!("cargo::rerun-if-changed={}", guests_dir.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed={DOCS_ONLY_VARIABLE}");

    if env::var_os(DOCS_ONLY_VARIABLE).is_some() {
        println!("cargo::warning={DOCS_ONLY_VARIABLE} is set: what is built has no guest programs and can do nothing");
        for program in PROGRAMS {
            fs::write(embedded(&out_dir, program), [])?;
        }
        return Ok(());
    }
    let built = guests::build(&env::var("CARGO")?, &guests_dir, &out_dir.join("guests"), &PROGRAMS)?;
    for program in PROGRAMS {
        fs::copy(built.join(program), embedded(&out_dir, program))?;
    }
    self_contained::link(&out_dir.join("libraries"))?;
    Ok(())
}

/// Where `session` embeds a program from.
fn embedded(out_dir: &Path, program: &str) -> PathBuf {
    out_dir.join(format!("{program}.bin"))
}
