//! `instar doctor` on this machine: what works is found, what does not comes with its remedy, and nothing is left behind.

mod common;
#[path = "common/kvm.rs"]
mod kvm;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Ended, Folder, finish};
use kvm::without_kvm;
use serde_json::Value;

const NAMES: [&str; 13] = [
    "kvm",
    "machine",
    "sandbox",
    "directory",
    "locks",
    "direct",
    "allocate",
    "punch-hole",
    "seek-data",
    "reflink",
    "no_new_privs",
    "landlock",
    "seccomp",
];

fn document(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let mut checks = document["checks"].as_array().expect("checks").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name} in {document}"))
}

#[test]
fn a_machine_with_kvm_is_fit_and_nothing_is_left_behind() {
    if without_kvm("a_machine_with_kvm_is_fit_and_nothing_is_left_behind") {
        return;
    }
    let folder = Folder::new();
    let ended = folder.run(&["doctor", "--output", "json"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let document = document(&ended);
    assert_eq!((&document["fit"], &document["directory"]), (&Value::Bool(true), &Value::from(".")));
    let checks = document["checks"].as_array().expect("checks");
    assert_eq!(checks.iter().map(|check| check["name"].as_str().expect("a name")).collect::<Vec<_>>(), NAMES);
    for check in checks {
        assert_eq!(check["works"] == true, check["remedy"].is_null(), "{check}");
        assert!(check["works"] == true || check["needed"] == false, "{check}");
    }
    let time = check(&document, "sandbox")["detail"].as_str().expect("a detail");
    assert!(time.starts_with("a guest looked at an image in ") && time.ends_with(" ms"), "{time}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);

    let human = folder.run(&["doctor", "."]);
    assert_eq!(human.status, Some(0), "{human:?}");
    assert!(NAMES.iter().all(|name| human.stdout.lines().any(|line| line.starts_with(name))), "{human:?}");
    assert!(human.stdout.ends_with("This machine is fit for images in '.'.\n"), "{human:?}");
}

#[test]
fn what_the_jail_lacks_is_what_version_says() {
    let folder = Folder::new();
    let layers = folder.run(&["--version", "--verbose"]).stdout;
    let found = document(&folder.run(&["doctor", "--output=json", "--require-jail"]));
    for name in ["no_new_privs", "landlock", "seccomp"] {
        let check = check(&found, name);
        assert_eq!(layers.contains(&format!("{name}: active")), check["works"] == true, "{check}");
        assert_eq!(check["needed"], true);
    }
}

#[test]
fn a_device_that_may_not_be_opened_is_named_with_the_remedy() {
    const TEST: &str = "a_device_that_may_not_be_opened_is_named_with_the_remedy";
    let is_root = nix::unistd::geteuid().is_root();
    let mode = fs::metadata("/dev/kvm").map(|status| status.permissions().mode());
    let (true, Ok(false)) = (is_root, mode.map(|mode| mode & 0o006 == 0o006)) else {
        eprintln!("{TEST}: skipped, it needs root, and a /dev/kvm that others cannot open");
        return;
    };
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    // By its descriptor, for the directories that lead to the program may be shut to others.
    let program = fs::File::open(assert_cmd::cargo::cargo_bin("instar")).expect("the program is built");
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.current_dir(folder.path()).args(["doctor", "--output", "json"]).uid(65534).gid(65534);
    let ended = finish(&mut command);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert_eq!(ended.stderr, "instar: This machine lacks what nothing works without: kvm\n");
    let document = document(&ended);
    let device = check(&document, "kvm");
    assert_eq!(device["detail"], "'/dev/kvm': Permission denied");
    assert!(device["remedy"].as_str().is_some_and(|remedy| remedy.contains("usermod -aG ")), "{device}");
    assert_eq!(document["fit"], false);
    assert_eq!(check(&document, "locks")["works"], true, "what does not need the device is tried all the same");
}

#[test]
fn a_sandbox_that_needs_no_kvm_is_tried_without_it() {
    let ended = Folder::new().run(&["doctor", "--output", "json", "--sandbox", "process"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let document = document(&ended);
    assert_eq!(document["checks"][0]["name"], "sandbox");
    assert_eq!(check(&document, "sandbox")["works"], true);
}

#[test]
fn a_device_that_is_something_else_is_named() {
    const TEST: &str = "a_device_that_is_something_else_is_named";
    let folder = Folder::new();
    let script = "mount --bind /dev/null /dev/kvm && exec \"$0\" doctor";
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "--map-root-user", "sh", "-c", "mount --bind /dev/null /dev/kvm"]);
    if !apart.output().is_ok_and(|output| output.status.success()) {
        eprintln!("{TEST}: skipped, no file can be put over /dev/kvm here (unshare --mount --map-root-user)");
        return;
    }
    let mut command = Command::new("unshare");
    command.current_dir(folder.path()).args(["--mount", "--map-root-user", "sh", "-c", script]);
    let ended = finish(command.arg(assert_cmd::cargo::cargo_bin("instar")));
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("it is not KVM"), "{ended:?}");
    assert!(ended.stdout.ends_with("This machine is not fit for images in '.'.\n"), "{ended:?}");
}

#[test]
fn a_directory_that_takes_no_files_is_unfit() {
    let folder = Folder::new();
    let ended = folder.run(&["doctor", "--output", "json", "absent"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert_eq!(check(&document(&ended), "directory")["detail"], "'absent': No such file or directory");
    folder.file("plain", b"");
    let plain = document(&folder.run(&["doctor", "--output", "json", "plain"]));
    assert_eq!(check(&plain, "directory")["detail"], "'plain': Not a directory");
    assert!(ended.stderr.starts_with("instar: This machine lacks what nothing works without: "), "{ended:?}");
    assert!(ended.stderr.ends_with("directory\n"), "{ended:?}");
}

#[test]
fn words_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let hint = "Try 'instar doctor --help' for more information";
    folder.fails(&["doctor", "a", "b"], &format!("instar: Expecting at most one directory\n{hint}"));
    folder
        .fails(&["doctor", "--output=xml"], &format!("instar: --output expects 'human' or 'json', not 'xml'\n{hint}"));
}
