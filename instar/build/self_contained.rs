// Links the program with the static form of the C library, where that is installed: one file that needs nothing of the system, and
// a command, which is a process that makes others, starts more than half a millisecond sooner.
//
// rustc does the same for `-C target-feature=+crt-static`, but then wants to be told a target, which changes where the program comes to
// lie, and cannot be asked for by a package. So rustc goes on naming the shared libraries, and the linker is given a folder to look
// into first, where these names stand for archives.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Set to `dynamic` by whoever wants the shared libraries nevertheless.
pub(crate) const LINK_VARIABLE: &str = "INSTAR_LINK";

/// The libraries that rustc names, and the archives that take their places. The compiler's own needs the C library, too.
const LIBRARIES: [(&str, &[&str]); 3] =
    [("libgcc_s.a", &["libgcc_eh.a", "libgcc.a", "libc.a"]), ("libm.a", &["libm.a"]), ("libc.a", &["libc.a"])];
/// What a program that is linked so begins with; older compilers do not have it.
const START_FILE: &str = "rcrt1.o";

/// Tells cargo how to link the package's programs. `folder` is made. Where something is missing nothing is told, and the program
/// needs the shared libraries.
pub(crate) fn link(folder: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={LINK_VARIABLE}");
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|name| name == "gnu");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|name| name == "crt-static");
    let is_unwanted = env::var(LINK_VARIABLE).is_ok_and(|how| how == "dynamic");
    if !is_gnu || is_static || is_unwanted {
        return Ok(());
    }
    let compiler = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let Some(archives) = archives(&compiler) else { return Ok(()) };
    fs::create_dir_all(folder)?;
    for (name, paths) in archives {
        // Read by linkers as a list of files that need each other.
        fs::write(folder.join(name), format!("GROUP ( {} )\n", paths.join(" ")))?;
    }
    println!("cargo::rustc-link-arg-bins=-static-pie");
    println!("cargo::rustc-link-arg-bins=-L{}", folder.display());
    Ok(())
}

/// Each library that rustc names, and the paths of what takes its place; `None` where the compiler lacks something.
pub(crate) fn archives(compiler: &str) -> Option<Vec<(&'static str, Vec<String>)>> {
    located(compiler, START_FILE)?;
    let paths = |names: &[&str]| names.iter().map(|name| located(compiler, name)).collect::<Option<_>>();
    LIBRARIES.iter().map(|(library, names)| Some((*library, paths(names)?))).collect()
}

/// Where the compiler has a file of its own or of the C library.
fn located(compiler: &str, name: &str) -> Option<String> {
    let answer = Command::new(compiler).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = String::from_utf8(answer.stdout).ok()?.trim_end().to_owned();
    // What it does not have it gives back as it was.
    Path::new(&path).is_absolute().then_some(path)
}
