//! Many processes at once on one chain: commits, rebases, looks, and writers that are not instar. Whoever cannot have an image
//! says so and changes nothing; whoever has it is alone; and in the end the overlay shows exactly what was written to it.
//!
//! The writers are qemu-io processes where it is installed; its absence is said. A referee claims the overlay as a writer does
//! and watches whether it changes meanwhile. Cannot see: two writers on different machines.

mod common;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/scattered.rs"]
mod scattered;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Folder;
use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use instar::files::{Access, open_operand};
use kvm::without_kvm;
use scattered::{Backing, Disk, Numbers};

const CLUSTERS: usize = 64;
const CLUSTER_BYTES: usize = 64 << 10;
/// How long everybody goes on at least.
const TIME: Duration = Duration::from_secs(4);
/// How long it may take until everybody has had a turn.
const PATIENCE: Duration = Duration::from_secs(90);
/// The words of everybody who finds an image taken.
const TAKEN: &str = "lock";

/// What one participant has achieved.
#[derive(Default)]
struct Score {
    done: AtomicUsize,
    refused: AtomicUsize,
}

impl Score {
    fn count(&self, done: bool) {
        if done { &self.done } else { &self.refused }.fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

/// Names of the participants, and which of them do the same.
const NAMES: [&str; 7] = ["commit", "second commit", "rebase", "info", "referee", "qemu-io", "second qemu-io"];
const KINDS: [&[usize]; 5] = [&[0, 1], &[2], &[3], &[4], &[5, 6]];

/// Whether a process has done its work; it must have, or have found an image taken.
#[track_caller]
fn done(output: &Output, who: &str) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let taken = output.status.code() == Some(1) && stderr.contains(TAKEN);
    assert!(output.status.success() || taken, "{who}: {}: {stderr}", output.status);
    output.status.success()
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program runs")
}

fn qemu_tool(name: &str) -> bool {
    Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn nobody_writes_while_somebody_else_does() {
    if without_kvm("nobody_writes_while_somebody_else_does") {
        return;
    }
    let mut numbers = Numbers(11);
    let folder = Folder::new();
    let disks: Vec<Disk> = [40, 40, 30].map(|percent| Disk::scattered(CLUSTERS, percent, &mut numbers)).into();
    folder.file("base.qcow2", &disks[0].as_qcow2(&Backing::None, &mut numbers));
    folder.file("twin.qcow2", &disks[1].as_qcow2(&Backing::None, &mut numbers));
    folder.file("top.qcow2", &disks[2].as_qcow2(&Backing::Named("base.qcow2", "qcow2"), &mut numbers));
    let mut model = disks[2].over(&disks[0]).bytes();

    let has_writers = qemu_tool("qemu-io");
    if !has_writers {
        eprintln!("nobody_writes_while_somebody_else_does: no qemu-io, so the only writers are instar's");
    }
    let scores: [Score; 7] = Default::default();
    let stop = AtomicBool::new(false);
    let go_on = || !stop.load(Ordering::Relaxed);
    let written: Vec<u8> = thread::scope(|scope| {
        let (folder, scores) = (&folder, &scores);
        let commit = |score: &'static str, place: usize| {
            while go_on() {
                scores[place].count(done(&output(&mut folder.instar(&["commit", "-q", "top.qcow2"])), score));
            }
        };
        scope.spawn(move || commit("commit", 0));
        scope.spawn(move || commit("second commit", 1));
        scope.spawn(move || {
            for name in ["twin.qcow2", "base.qcow2"].iter().cycle().take_while(|_| go_on()) {
                let arguments = ["rebase", "-q", "-b", name, "-F", "qcow2", "top.qcow2"];
                scores[2].count(done(&output(&mut folder.instar(&arguments)), "rebase"));
            }
        });
        scope.spawn(move || {
            while go_on() {
                scores[3].count(done(&output(&mut folder.instar(&["info", "--backing-chain", "top.qcow2"])), "info"));
            }
        });
        scope.spawn(move || {
            while go_on() {
                scores[4].count(watch(&folder.path().join("top.qcow2")));
                thread::sleep(Duration::from_millis(5));
            }
        });
        let writers: Vec<_> = (0..if has_writers { 2 } else { 0 })
            .map(|writer| {
                scope.spawn(move || write_again_and_again(folder.path(), writer, &scores[5 + writer], &go_on))
            })
            .collect();
        let start = Instant::now();
        let kinds = if has_writers { &KINDS[..] } else { &KINDS[..4] };
        let all_had_a_turn = || kinds.iter().all(|kind| kind.iter().any(|&place| scores[place].done() > 0));
        while start.elapsed() < TIME || (start.elapsed() < PATIENCE && !all_had_a_turn()) {
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        for (name, score) in NAMES.iter().zip(scores) {
            eprintln!("{name}: {} done, {} refused", score.done(), score.refused.load(Ordering::Relaxed));
        }
        assert!(all_had_a_turn(), "somebody never had a turn");
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });

    for (writer, pattern) in written.into_iter().enumerate().filter(|(_, pattern)| *pattern != 0) {
        model[place(writer)..place(writer) + WRITTEN_BYTES].fill(pattern);
    }
    let shown = shown(&folder.path().join("top.qcow2"));
    let difference = shown.iter().zip(&model).position(|(shown, wanted)| shown != wanted);
    assert_eq!((shown.len(), difference), (model.len(), None), "the overlay does not show what was written");
    if qemu_tool("qemu-img") {
        for name in ["base.qcow2", "twin.qcow2", "top.qcow2"] {
            let check = output(Command::new("qemu-img").args(["check", name]).current_dir(folder.path()));
            assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stdout));
        }
    } else {
        eprintln!("nobody_writes_while_somebody_else_does: no qemu-img, so the images are not checked by it");
    }
    // Whoever holds an image keeps others out for as long as that, and no longer.
    let top = folder.path().join("top.qcow2");
    let holder = open_operand(top.as_os_str().as_bytes(), Access::Write).expect("nobody is left");
    let refusal = "instar: Could not open 'top.qcow2': Failed to get \"write\" lock\nIs another process using the image [top.qcow2]?";
    folder.fails(&["commit", "top.qcow2"], refusal);
    drop(holder);
    assert_eq!(folder.run(&["commit", "top.qcow2"]).status, Some(0));
}

/// Length of what a writer writes at a time.
const WRITTEN_BYTES: usize = 5 * CLUSTER_BYTES / 2;

/// Where a writer writes: each has a place of its own.
fn place(writer: usize) -> usize {
    (3 + 20 * writer) * CLUSTER_BYTES
}

/// Writes one pattern after the other; returns the last one that was written, or 0.
fn write_again_and_again(folder: &Path, writer: usize, score: &Score, go_on: &impl Fn() -> bool) -> u8 {
    let mut last = 0;
    for pattern in (1..=u8::MAX).cycle() {
        if !go_on() {
            break;
        }
        let line = format!("write -q -P {pattern} {} {WRITTEN_BYTES}", place(writer));
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2", "-c", &line, "top.qcow2"]).current_dir(folder);
        let is_done = done(&output(&mut command), "qemu-io");
        if is_done {
            last = pattern;
        }
        score.count(is_done);
    }
    last
}

/// Claims an image as a writer does, and looks whether it changes. Returns false where it is taken.
fn watch(path: &Path) -> bool {
    let image = match open_operand(path.as_os_str().as_bytes(), Access::Write) {
        Ok(image) => image,
        Err(error) => {
            assert!(error.to_string().contains(TAKEN), "{error}");
            return false;
        }
    };
    let content = || {
        let length = image.file().metadata().expect("a length").len();
        let mut bytes = vec![0; usize::try_from(length).expect("short")];
        image.file().read_exact_at(&mut bytes, 0).expect("readable");
        bytes
    };
    let before = content();
    thread::sleep(Duration::from_millis(15));
    assert!(content() == before, "somebody writes to an image that another one has claimed for writing");
    true
}

/// The disk that an image shows, through its backing file.
fn shown(path: &Path) -> Vec<u8> {
    assert!(fs::metadata(path).is_ok());
    let image = Qcow2::<ImagoFile>::builder_path(path).open(PermissiveImplicitOpenGate::default()).expect("opens");
    let image = FormatAccess::new(image);
    let mut bytes = vec![0; usize::try_from(image.size()).expect("short")];
    image.read(&mut bytes[..], 0).expect("readable");
    bytes
}
