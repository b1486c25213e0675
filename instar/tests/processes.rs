//! The processes of a command, from outside, under a tracer: what each has open while it waits for work and when its jail closes, and
//! that none is left behind.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/trace.rs"]
mod trace;

use std::fs::File;
use std::process::Stdio;

use common::Folder;
use image::qcow2;
use kvm::without_kvm;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// An overlay, its base, and an image that has nothing to do with them.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0x11, "", ""));
    folder.file("a.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    folder.file("other.qcow2", &qcow2(0x12, "", ""));
    folder
}

#[test]
fn only_what_the_operation_needs_is_open() {
    if without_kvm("only_what_the_operation_needs_is_open") {
        return;
    }
    let folder = folder();
    // What a careless caller leaves open.
    let leaked = File::open(folder.path().join("other.qcow2")).expect("a file");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("inherited");
    let mut command = folder.instar(&["commit", "a.qcow2"]);
    command.stdin(File::open("/dev/zero").expect("zeros")).stdout(Stdio::piped()).stderr(Stdio::null());
    let trace = trace::run(&mut command);
    drop(leaked);
    assert_eq!(trace.open.len(), 3, "{:?}", trace.open);
    // A process that looks at one image has that image, read-only, and one way to its parent.
    for (open, image) in trace.open.iter().zip(["r a.qcow2", "r base.qcow2"]) {
        let (images, others) = sorted(&open.files, &folder);
        assert_eq!(images, [image]);
        assert_eq!(others, [&MACHINE[..], &["w pipe:"]].concat(), "{open:?}");
    }
    // The base is open twice where it can be written past the page cache.
    let (open, own_pipes) = without_own_pipes(&trace.open[2].files);
    let (mut written, others) = sorted(&open, &folder);
    written.dedup();
    assert_eq!(written, ["rw a.qcow2", "rw base.qcow2"]);
    assert!(own_pipes <= 2, "{:?}", trace.open[2]);
    assert_eq!(others, [&MACHINE[..], &["w /dev/null", "w pipe:"]].concat(), "{open:?}");
    // Each of those who looked at one had been made before it was known, and had nothing of its parent's while it waited.
    let looked: Vec<Pid> = trace.open[..2].iter().map(|open| open.process).collect();
    assert_eq!(trace.waiting.len(), 2, "{:?}", trace.waiting);
    for open in &trace.waiting {
        assert!(looked.contains(&open.process), "{open:?}");
        let none: [&str; 0] = [];
        let (images, others) = sorted(&open.files, &folder);
        assert_eq!(images, none);
        assert_eq!(others, [&MACHINE[..], &["rw socket:", "w pipe:"]].concat(), "{open:?}");
    }
    assert_ne!(looked[0], looked[1]);
}

/// What a machine has open.
const MACHINE: [&str; 3] = ["rw /dev/kvm", "rw anon_inode:kvm-vcpu:0", "rw anon_inode:kvm-vm"];

/// How the files of a folder are open, and all others, without what differs from run to run.
fn sorted(open: &[String], folder: &Folder) -> (Vec<String>, Vec<String>) {
    let place = format!("{}/", folder.path().canonicalize().expect("it exists").display());
    let lines = open.iter().map(|line| line.split_once(' ').expect("a number").1);
    let (images, others): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains(&place));
    let mut images: Vec<String> = images.into_iter().map(|line| line.replace(&place, "")).collect();
    let mut others: Vec<String> =
        others.into_iter().map(|line| line.split('[').next().unwrap_or_default().to_owned()).collect();
    images.sort();
    others.sort();
    (images, others)
}

#[test]
fn nothing_is_left_of_what_was_made_in_vain() {
    if without_kvm("nothing_is_left_of_what_was_made_in_vain") {
        return;
    }
    let folder = folder();
    for (arguments, is_made) in [
        (&["commit", "--no-such-option", "a.qcow2"][..], true),
        (&["commit", "no-such-image.qcow2"], true),
        (&["rebase", "a.qcow2"], true),
        (&["info", "--output", "xml", "a.qcow2"], true),
        (&["convert", "a.qcow2", "b.qcow2"], false),
        (&["rebase", "-u", "no-such-image.qcow2"], false),
    ] {
        let mut command = folder.instar(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let trace = trace::run(&mut command);
        assert!(matches!(trace.ended, Some(WaitStatus::Exited(_, 1))), "{arguments:?}: {:?}", trace.ended);
        assert_eq!((trace.started, trace.outlived_by), (usize::from(is_made), 0), "{arguments:?}");
        assert!(trace.open.is_empty(), "{arguments:?}");
    }
}

/// Leaves out pipes of which a process has both ends, so that they lead nowhere else; and tells how many there are.
fn without_own_pipes(open: &[String]) -> (Vec<String>, usize) {
    let pipe = |line: &str, access: &str| {
        let rest = line.split_once(' ').and_then(|(_, rest)| rest.strip_prefix(access));
        rest.filter(|rest| rest.starts_with(" pipe:")).map(str::to_owned)
    };
    let read: Vec<String> = open.iter().filter_map(|line| pipe(line, "r")).collect();
    let own: Vec<String> = open.iter().filter_map(|line| pipe(line, "w")).filter(|pipe| read.contains(pipe)).collect();
    let is_own =
        |line: &&String| ["r", "w"].iter().any(|access| pipe(line, access).is_some_and(|pipe| own.contains(&pipe)));
    (open.iter().filter(|line| !is_own(line)).cloned().collect(), own.len())
}
