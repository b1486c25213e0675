//! The library against the built program, and against programs that are none: every way to fail is an error of its own.

#[path = "common/client.rs"]
mod client;
mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use client::{PROGRAM, chain, code, here};
use common::Folder;
use image::qcow2;
use instar::client::{Commit, Error, Info, Plan, Rebase, Secret};
use instar::code::Code;
use instar::files::{Access, open_operand};
use kvm::without_kvm;

#[test]
fn every_kind_of_failure_is_an_error_of_its_own() {
    let folder = chain();
    folder.file("text", b"no image");
    let missing = here!(folder, Commit::new("missing.qcow2")).run().expect_err("there is no such file");
    assert_eq!(missing.code(), Some(Code::NotFound));
    let failure = missing.failure().expect("the program said it");
    assert_eq!((failure.file.as_deref(), failure.code_name.as_str()), (Some("missing.qcow2"), "not-found"));
    assert!(failure.hint.as_deref().is_some_and(|hint| hint.starts_with("check the name")), "{failure:?}");
    assert!(missing.to_string().ends_with("No such file or directory"), "{missing}");
    assert_eq!(code(here!(folder, Info::new("missing.qcow2")).run()), Code::NotFound);
    assert_eq!(code(here!(folder, Rebase::detach("missing.qcow2")).run()), Code::NotFound);
    assert_eq!(code(Plan::commit(&here!(folder, Commit::new("missing.qcow2"))).run()), Code::NotFound);
    assert_eq!(code(here!(folder, Commit::new("")).run()), Code::Usage);
    assert_eq!(code(here!(folder, Commit::new("top.qcow2")).rate_limit(u64::MAX).run()), Code::Usage);
    assert_eq!(code(here!(folder, Info::new("top.qcow2")).qemu_version("new").run()), Code::Usage);
    assert_eq!(code(here!(folder, Commit::new("top.qcow2")).format("nosuch").run()), Code::UnsupportedFormat);
    let unread = here!(folder, Commit::new("top.qcow2")).secret(Secret::file("s", "nosuch.key"));
    assert_eq!(code(unread.run()), Code::NotFound);

    let path = folder.path().join("top.qcow2");
    let held = open_operand(path.as_os_str().as_bytes(), Access::Write).expect("opens");
    let error = here!(folder, Commit::new("top.qcow2")).run().expect_err("it is in use");
    assert_eq!(error.code(), Some(Code::ImageInUse));
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    drop(held);
    if without_kvm("every_kind_of_failure_is_an_error_of_its_own") {
        return;
    }
    assert_eq!(code(here!(folder, Commit::new("text")).format("qcow2").run()), Code::InvalidImage);
    assert_eq!(code(here!(folder, Commit::new("base.qcow2")).run()), Code::NoBacking);
    assert_eq!(code(here!(folder, Commit::new("top.qcow2")).base("other.qcow2").run()), Code::NotInChain);
    folder.file("vm/overlay.qcow2", &qcow2(0x55, "../base.qcow2", "qcow2"));
    let outside = here!(folder, Commit::new("vm/overlay.qcow2"));
    assert_eq!(code(outside.run()), Code::Policy);
    outside.allow_dir(".").run().expect("allowed");
}

#[test]
fn a_program_that_is_not_instar_is_told_from_a_failure() {
    let folder = Folder::new();
    let script = |name: &str, text: &str| {
        let path = folder.file(name, format!("#!/bin/sh\n{text}\n").as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        path
    };
    // A file that was just written may still be open for writing in a process that another thread has forked.
    let run = |commit: Commit| loop {
        match commit.run().expect_err("no report") {
            Error::System { source, .. } if source.kind() == ErrorKind::ExecutableFileBusy => {}
            error => return error,
        }
    };
    let commit = Commit::new("a");
    let missing = run(commit.clone().program("/nonexistent/instar"));
    assert!(matches!(&missing, Error::ProgramNotFound { program } if program.ends_with("instar")), "{missing}");
    let nowhere = run(commit.clone().program(PROGRAM).current_dir("/nonexistent"));
    assert!(matches!(nowhere, Error::System { .. }), "{nowhere}");
    let not_to_be_run = run(commit.clone().program(folder.file("plain", b"")));
    assert!(matches!(not_to_be_run, Error::System { .. }), "{not_to_be_run}");
    let with_nul = here!(folder, Commit::new(OsStr::from_bytes(b"a\0b"))).run().expect_err("no name of a file");
    assert!(matches!(with_nul, Error::System { .. }), "{with_nul}");

    let wordy = run(commit.clone().program(script("wordy", "echo 'usage: wordy' >&2; exit 2")));
    let Error::NotUnderstood { succeeded: false, said, reason } = &wordy else { panic!("{wordy:?}") };
    assert_eq!((said.as_str(), reason.starts_with("exit status: 2")), ("usage: wordy", true), "{wordy}");
    let other = run(commit.clone().program(script("other", "echo done")));
    assert!(matches!(&other, Error::NotUnderstood { succeeded: true, said, .. } if said == "done\n"), "{other}");
    let killed = run(commit.program(script("killed", "echo one >&2; kill -KILL $$")));
    assert!(matches!(&killed, Error::Signal { signal: 9, messages } if *messages == ["one"]), "{killed}");
}
