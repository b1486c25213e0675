//! What the words of a command line tell before they are read: whether a sandbox on KVM is going to look at an image, so that it can
//! get ready meanwhile. A wrong guess costs a process that is ended again, and nothing else.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::drop_in;

/// The commands that begin with a look at an image.
const LOOKING: [&str; 3] = ["commit", "info", "rebase"];

/// Whether the command begins with a look at an image. `words` begin with the program's own name.
pub(super) fn begins_with_a_look(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1).skip_while(|word| *word == drop_in::NAME || is_option(word));
    let is_looking = words.next().is_some_and(|command| LOOKING.iter().any(|looking| command == looking));
    is_looking && !words.any(|word| does_otherwise(word.as_bytes()))
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-")
}

/// Whether a word stands for help, for another kind of sandbox, for several processes, or for an unsafe rebase, which tries first.
fn does_otherwise(word: &[u8]) -> bool {
    match word {
        [b'-', b'-', name @ ..] => {
            [&b"help"[..], b"sandbox", b"jobs", b"backing-unsafe"].iter().any(|other| name.starts_with(other))
        }
        [b'-', letters @ ..] => letters.iter().any(|letter| b"hu".contains(letter)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(words: &str) -> bool {
        begins_with_a_look(&words.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_that_look_first_are_known() {
        for words in [
            "instar commit a.qcow2",
            "instar -v info --output json a.qcow2",
            "instar rebase -b b.qcow2 -F raw a.qcow2",
            "instar qemu-img commit -q a.qcow2",
            "/usr/bin/qemu-img qemu-img info a.qcow2",
        ] {
            assert!(guess(words), "{words}");
        }
    }

    #[test]
    fn others_are_left_alone() {
        for words in [
            "instar",
            "instar --version",
            "instar doctor",
            "instar qemu-img convert commit info",
            "instar commit --help",
            "instar commit -h",
            "instar rebase -u -b b.qcow2 a.qcow2",
            "instar rebase -qu a.qcow2",
            "instar info --sandbox=process a.qcow2",
            "instar commit --jobs 4 a.qcow2 b.qcow2",
        ] {
            assert!(!guess(words), "{words}");
        }
    }
}
