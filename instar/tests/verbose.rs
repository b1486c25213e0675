//! What `-v` and INSTAR_LOG show, that it is off otherwise, and that colours are for terminals alone.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use common::{Ended, Folder, finish};
use image::qcow2;
use kvm::without_kvm;

fn pair() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("top.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    folder
}

/// The events' messages and fields, without the times in front of them.
fn events(stderr: &str) -> Vec<(String, String)> {
    let event = |line: &str| {
        let (time, rest) = line.trim_start().split_once(' ').expect("a time");
        assert!(time.ends_with('s'), "{line}");
        let (level, text) = rest.trim_start().split_once(' ').expect("a level");
        (level.to_owned(), text.to_owned())
    };
    stderr.lines().map(event).collect()
}

#[test]
fn a_commit_is_followed_from_the_first_file_to_the_last_barrier() {
    if without_kvm("a_commit_is_followed_from_the_first_file_to_the_last_barrier") {
        return;
    }
    for (arguments, level) in [
        (&["commit", "-v", "--require-jail", "top.qcow2"][..], ""),
        (&["-v", "commit", "--require-jail", "top.qcow2"], ""),
        (&["qemu-img", "commit", "--verbose", "--require-jail", "top.qcow2"], ""),
        (&["commit", "--require-jail", "top.qcow2"], "info"),
    ] {
        let ended = finish(pair().instar(arguments).env("INSTAR_LOG", level));
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "Image committed.\n"), "{}", ended.stderr);
        let events = events(&ended.stderr);
        let mut rest = events.iter();
        for expected in [
            "opened file=top.qcow2 access=Write is_locked=true",
            "looked at file=top.qcow2 format=\"qcow2\" virtual_size_bytes=32768 backing=base.qcow2 took=",
            "opened file=base.qcow2 access=Read is_locked=true",
            "looked at file=base.qcow2 format=\"qcow2\" virtual_size_bytes=32768 backing=none took=",
            "layer of the chain depth=0 file=top.qcow2",
            "layer of the chain depth=1 file=base.qcow2",
            "opened for writing file=base.qcow2 access=Write is_locked=true",
            "sandbox ready device_count=2",
            "jail closed; no_new_privs: active; landlock: active",
            "guest ended took=",
            "requests served exits=",
        ] {
            let found = rest.any(|(level, text)| level == "INFO" && text.starts_with(expected));
            assert!(found, "{expected} is missing, or out of order: {events:#?}");
        }
        let (_, served) = events.last().expect("events");
        assert!(served.contains(" copied_bytes=512 ") && !served.ends_with(" barriers=0"), "{served}");
    }
}

#[test]
fn twice_shows_every_batch() {
    if without_kvm("twice_shows_every_batch") {
        return;
    }
    let ended = pair().run(&["commit", "-vv", "top.qcow2"]);
    let batches =
        events(&ended.stderr).into_iter().filter(|(level, text)| level == "DEBUG" && text.starts_with("batch "));
    assert!(batches.count() > 5, "{}", ended.stderr);
}

#[test]
fn nothing_is_shown_unasked() {
    if without_kvm("nothing_is_shown_unasked") {
        return;
    }
    let done = Ended { status: Some(0), stdout: "Image committed.\n".to_owned(), stderr: String::new() };
    assert_eq!(pair().run(&["commit", "top.qcow2"]), done);
    for level in ["", "off", "warn"] {
        assert_eq!(finish(pair().instar(&["commit", "top.qcow2"]).env("INSTAR_LOG", level)), done, "{level}");
    }
    for (program, words) in
        [("instar", &["commit", "top.qcow2"][..]), ("qemu-img", &["qemu-img", "commit", "top.qcow2"])]
    {
        let text = "INSTAR_LOG is none of off, error, warn, info, debug and trace; it is passed over";
        let ended = finish(pair().instar(words).env("INSTAR_LOG", "loud"));
        assert_eq!((ended.status, ended.stderr), (Some(0), format!("{program}: warning: {text}\n")));
    }
}

#[test]
fn a_failure_is_followed_too() {
    let ended = Folder::new().run(&["info", "-v", "a\x1b[1m"]);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].ends_with(" INFO failed code=\"not-found\""), "{}", ended.stderr);
    assert_eq!(lines[1], "instar: Could not open 'a\\x1b[1m': Could not open 'a\\x1b[1m': No such file or directory");
}

/// What a failing command writes to a terminal.
fn on_terminal(variable: (&str, &str)) -> String {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let folder = Folder::new();
    let mut command = folder.instar(&["commit", "a"]);
    command.env_remove("NO_COLOR").env("TERM", "xterm").env(variable.0, variable.1);
    let mut child = command.stdout(Stdio::null()).stderr(terminal.slave).spawn().expect("the program runs");
    // The program's own copy of the terminal goes with the command.
    drop(command);
    let mut written = Vec::new();
    // When nobody has the terminal open any more, reading from its other side is an error.
    let _ = File::from(terminal.master).read_to_end(&mut written);
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    String::from_utf8(written).expect("UTF-8")
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let text = "Could not open 'a': Could not open 'a': No such file or directory\r\n";
    assert_eq!(on_terminal(("LC_ALL", "C")), format!("\x1b[1;31minstar:\x1b[0m {text}"));
    assert_eq!(on_terminal(("NO_COLOR", "1")), format!("instar: {text}"));
    assert_eq!(on_terminal(("TERM", "dumb")), format!("instar: {text}"));
    assert_eq!(on_terminal(("NO_COLOR", "")), format!("\x1b[1;31minstar:\x1b[0m {text}"));
}
