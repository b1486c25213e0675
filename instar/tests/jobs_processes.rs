//! The processes of `instar commit --jobs`: whatever ends one of them, the others go on; they end with the one that has started them,
//! and are never more than asked for.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/pairs.rs"]
mod pairs;
#[path = "common/scattered.rs"]
mod scattered;
#[path = "common/schema.rs"]
mod schema;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, Folder, finish};
use image::qcow2;
use kvm::without_kvm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pairs::{commit, pairs};
use scattered::{Backing, Disk};
use schema::{read, strict};

/// How long something may take that happens soon, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Overlays of 8 MiB, each on a raw base of its own; with the options for a commit that takes about two seconds.
fn slow(names: &'static [(&'static str, &'static str)]) -> Folder {
    let folder = Folder::new();
    for (name, base) in names {
        folder.file(base, &[7; 4096]);
        folder.file(name, &Disk::full(128).as_ordered_qcow2(&Backing::Named(base, "raw")));
    }
    folder
}

const SLOW: [&str; 4] = ["-r", "4M", "-t", "unsafe"];

#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "nothing came of it");
        thread::sleep(Duration::from_millis(5));
    }
}

fn children(process: u32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_killed_process_is_an_error_of_its_image_alone() {
    if without_kvm("a_killed_process_is_an_error_of_its_image_alone") {
        return;
    }
    for (signal, code) in [(Signal::SIGKILL, "job-failed"), (Signal::SIGSYS, "guest-fault")] {
        let folder = slow(&[("slow.qcow2", "raw")]);
        folder.file("quick.base", &qcow2(0xbb, "", ""));
        folder.file("quick.qcow2", &qcow2(0x11, "quick.base", "qcow2"));
        let arguments =
            commit(&[&["--jobs", "1", "--errors=json"], &SLOW[..]].concat(), &["slow.qcow2", "quick.qcow2"]);
        let instar = start(&mut folder.instar(&arguments));
        let base = folder.path().join("raw");
        wait_for(|| (fs::metadata(&base).expect("a file").len() > 4096).then_some(()));
        let [victim] = children(instar.id())[..] else { panic!("one process at a time") };
        kill(Pid::from_raw(victim), signal).expect("it is there");
        let ended = ended(instar);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), "quick.qcow2: Image committed.\n"), "{ended:?}");
        let told = read(&strict("error"), ended.stderr.trim_end());
        assert_eq!((&told["code"], &told["overlay"]), (&code.into(), &"slow.qcow2".into()));
        let message = told["message"].as_str().expect("a message");
        let name = if signal == Signal::SIGKILL { "signal 9" } else { "SIGSYS" };
        assert!(message.starts_with("'slow.qcow2': ") && message.contains(name), "{message}");
        // Nothing is lost.
        assert_eq!(folder.run(&["commit", "--jobs", "1", "-q", "slow.qcow2"]).status, Some(0));
        assert!(fs::read(&base).expect("the base") == Disk::full(128).bytes());
    }
}

#[test]
fn all_processes_end_with_their_parent_and_there_are_never_too_many() {
    if without_kvm("all_processes_end_with_their_parent_and_there_are_never_too_many") {
        return;
    }
    let folder = slow(&[("a", "a.raw"), ("b", "b.raw"), ("c", "c.raw"), ("d", "d.raw")]);
    let arguments = commit(&[&["--jobs", "2"], &SLOW[..]].concat(), &["a", "b", "c", "d"]);
    let mut instar = start(&mut folder.instar(&arguments));
    let mut most = 0;
    wait_for(|| {
        most = most.max(children(instar.id()).len());
        (fs::metadata(folder.path().join("c.raw")).expect("a file").len() > 4096).then_some(())
    });
    assert_eq!(most, 2);
    let left = wait_for(|| Some(children(instar.id())).filter(|left| left.len() == 2));
    instar.kill().expect("killed");
    instar.wait().expect("ended");
    for process in left {
        wait_for(|| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        });
    }
    assert_eq!(folder.run(&commit(&["--jobs", "4", "-q"], &["a", "b", "c", "d"])).status, Some(0));
    for base in ["a.raw", "b.raw", "c.raw", "d.raw"] {
        assert!(fs::read(folder.path().join(base)).expect("a base") == Disk::full(128).bytes(), "{base}");
    }
}

#[test]
fn a_signal_that_asks_for_progress_is_answered() {
    if without_kvm("a_signal_that_asks_for_progress_is_answered") {
        return;
    }
    let folder = slow(&[("a", "a.raw")]);
    let instar = start(&mut folder.instar(&commit(&[&["--jobs", "1"], &SLOW[..]].concat(), &["a"])));
    wait_for(|| (fs::metadata(folder.path().join("a.raw")).expect("a file").len() > 4096).then_some(()));
    kill(Pid::from_raw(instar.id().cast_signed()), Signal::SIGUSR1).expect("it is there");
    let expected =
        Ended { status: Some(0), stdout: "a: Image committed.\n".to_owned(), stderr: "    (0.00/100%)\n".to_owned() };
    assert_eq!(ended(instar), expected);
}

#[test]
fn who_has_started_it_may_ignore_how_children_end() {
    if without_kvm("who_has_started_it_may_ignore_how_children_end") {
        return;
    }
    let folder = pairs(&["a", "b"]);
    let program = folder.instar(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' CHLD; exec \"$@\"", "sh"]).arg(program.get_program());
    let ended = finish(shell.args(commit(&["--jobs", "2", "-q"], &["a.qcow2", "b.qcow2"])).current_dir(folder.path()));
    assert_eq!(ended, Ended { status: Some(0), stdout: String::new(), stderr: String::new() });
}

#[test]
fn where_no_process_can_be_made_the_others_go_on() {
    if without_kvm("where_no_process_can_be_made_the_others_go_on") {
        return;
    }
    const COUNT: usize = 24;
    let names: Vec<String> = (0..COUNT).map(|number| format!("n{number}")).collect();
    let folder = pairs(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let files: Vec<String> = names.iter().map(|name| format!("{name}.qcow2")).collect();
    let program = folder.instar(&[]);
    let mut shell = Command::new("sh");
    // Too few descriptors for the pipes of all.
    shell.args(["-c", "ulimit -n 32; exec \"$@\"", "sh"]).arg(program.get_program());
    shell.args(["commit", "--jobs", "256"]).args(&files).current_dir(folder.path());
    let ended = finish(&mut shell);
    let refused: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.ends_with(": No process could be started for it: Too many open files"))
        .collect();
    let committed = ended.stdout.lines().filter(|line| line.ends_with(".qcow2: Image committed.")).count();
    assert!(!refused.is_empty() && committed > 0, "{ended:?}");
    assert_eq!((ended.status, refused.len() + committed), (Some(1), COUNT), "{ended:?}");
    let summary = format!("instar: {} of {COUNT} images", refused.len());
    assert!(ended.stderr.lines().last().is_some_and(|last| last.starts_with(&summary)), "{ended:?}");
}
