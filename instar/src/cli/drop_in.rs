//! instar in qemu-img's place: which commands it does itself, and where the real qemu-img is that does all others.
//!
//! The commands that instar has never reach the real qemu-img, whatever stands in front of them: whoever put instar here
//! did so to have them done in its sandbox.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::Failure;
use super::output::{is_kept, warn};
use crate::files::system_text;
use crate::text::Printable;

/// The name under which this is called, and speaks.
pub(super) const NAME: &str = "qemu-img";
/// The commands that instar does.
const OWN: [&str; 3] = ["commit", "info", "rebase"];
/// Names the real qemu-img.
const REAL_VARIABLE: &str = "INSTAR_REAL_QEMU_IMG";
/// Tells this program that it comes out of a search for the real qemu-img itself.
const PASSED_ON_VARIABLE: &str = "INSTAR_PASSED_ON";

/// The command line as it would be typed for `instar`, if the program was started under qemu-img's name.
pub(super) fn by_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.first().is_some_and(|program| is_named(program)) {
        arguments.insert(1, NAME.into());
    }
    arguments
}

fn is_named(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// The words of a command that instar does, the command first; `None` for everything else. qemu-img's options in front of
/// the command are left out.
pub(super) fn own_command(words: &[OsString]) -> Option<&[OsString]> {
    let command = words.get(command_place(words)?..)?;
    if command.len() < words.len() {
        let name = Printable(command.first()?.as_bytes()).to_string();
        warn(&format!(
            "options in front of '{name}' have no effect: instar does it, which has no trace points of qemu-img's"
        ));
    }
    Some(command)
}

/// Where one of the own commands stands. Help and version, in front of one, are no commands of instar's.
fn command_place(words: &[OsString]) -> Option<usize> {
    let mut at = 0;
    loop {
        let word = words.get(at)?.as_bytes();
        match word {
            b"-T" => at += 2,
            b"--" => at += 1,
            _ if word.starts_with(b"-T") => at += 1,
            // At least one letter, of which no other option begins with the same.
            _ if word.len() > 2 && b"--trace".starts_with(word) => at += 2,
            _ if word.starts_with(b"--t") && word.contains(&b'=') => at += 1,
            _ => return OWN.iter().any(|own| own.as_bytes() == word).then_some(at),
        }
    }
}

/// Becomes the real qemu-img. Comes back only with the reason why not. `program` is the name under which this one was
/// started.
pub(super) fn pass_on(program: Option<&OsString>, words: &[OsString]) -> Failure {
    let command = words.first().map_or_else(|| NAME.to_owned(), |word| Printable(word.as_bytes()).to_string());
    if is_kept() {
        return Failure::NoQemuImg(format!("'{command}' is not done inside of another program"));
    }
    if std::env::var_os(PASSED_ON_VARIABLE).is_some() {
        return Failure::NoQemuImg(format!(
            "'{command}' was passed on to qemu-img, and came back to instar; name the real qemu-img in {REAL_VARIABLE}"
        ));
    }
    let real = match find(&command) {
        Ok(real) => real,
        Err(failure) => return failure,
    };
    let shown = program.map(OsString::as_os_str).filter(|program| is_named(program)).unwrap_or(OsStr::new(NAME));
    let error = Command::new(&real).arg0(shown).args(words).env(PASSED_ON_VARIABLE, "1").exec();
    let (real, text) = (Printable(real.as_os_str().as_bytes()), system_text(&error));
    Failure::NoQemuImg(format!("Could not run '{real}', which is to do '{command}': {text}"))
}

/// The real qemu-img: named in the environment, or the first in PATH that is another file than this program.
fn find(command: &str) -> Result<PathBuf, Failure> {
    let own = fs::metadata("/proc/self/exe").map(|status| identity(&status)).ok();
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|status| Some(identity(&status)) == own);
    if let Some(named) = std::env::var_os(REAL_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        if is_own(&named) {
            let shown = Printable(named.as_os_str().as_bytes());
            return Err(Failure::NoQemuImg(format!("{REAL_VARIABLE} names instar itself: '{shown}'")));
        }
        return Ok(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(NAME));
    candidates.find(|candidate| is_program(candidate) && !is_own(candidate)).ok_or_else(|| {
        Failure::NoQemuImg(format!(
            "instar does commit, info and rebase, and found no other qemu-img in PATH for '{command}'; \
             install it, or name it in {REAL_VARIABLE}"
        ))
    })
}

fn identity(status: &fs::Metadata) -> (u64, u64) {
    (status.dev(), status.ino())
}

fn is_program(path: &Path) -> bool {
    let status: io::Result<fs::Metadata> = fs::metadata(path);
    status.is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn own_commands_are_found_behind_options_for_all_commands() {
        let place = |line: &str| command_place(&words(line));
        assert_eq!(place("commit a"), Some(0));
        assert_eq!(place("-T x info a"), Some(2));
        assert_eq!(place("-Tx rebase a"), Some(1));
        assert_eq!(place("--trace x --tr=y -- commit a"), Some(4));
        assert_eq!(place("-T commit info a"), Some(2));
        for line in
            ["", "create a", "-V commit", "--version", "-h commit", "--help", "-T", "-T x", "check commit", "--t"]
        {
            assert_eq!(place(line), None, "{line}");
        }
    }

    #[test]
    fn the_name_of_the_program_stands_for_the_word() {
        let line = |line: &str| by_name(words(line)).join(OsStr::new(" ")).into_string().expect("UTF-8");
        assert_eq!(line("/usr/local/bin/qemu-img info a"), "/usr/local/bin/qemu-img qemu-img info a");
        assert_eq!(line("qemu-img"), "qemu-img qemu-img");
        assert_eq!(line("/opt/qemu-img/instar info a"), "/opt/qemu-img/instar info a");
    }
}
