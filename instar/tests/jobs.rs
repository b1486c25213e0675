//! `instar commit --jobs`: several images by one command, each on its own account; what is said of them never mixes; and images that
//! are in each other's way are all committed.
//!
//! Cannot see: how much faster it is. What becomes of the processes is in `jobs_processes`.

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

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use common::{Ended, Folder, finish};
use image::qcow2;
use kvm::without_kvm;
use pairs::{commit, is_committed, pairs, sorted};
use scattered::{Backing, Disk};
use schema::{read, strict};

#[test]
fn each_image_has_its_line_and_quiet_has_none() {
    if without_kvm("each_image_has_its_line_and_quiet_has_none") {
        return;
    }
    for (options, lines) in [
        (
            &["--jobs", "2"][..],
            &["a.qcow2: Image committed.", "b.qcow2: Image committed.", "c.qcow2: Image committed."][..],
        ),
        (
            &["--jobs=256", "--require-jail", "--sandbox", "process"],
            &["a.qcow2: Image committed.", "b.qcow2: Image committed.", "c.qcow2: Image committed."],
        ),
        (&["--jobs", "1", "-q"], &[]),
        (&["--jobs", "3", "-q", "--output", "json", "--progress", "json"], &[]),
    ] {
        let folder = pairs(&["a", "b", "c"]);
        let ended = folder.run(&commit(options, &["a.qcow2", "b.qcow2", "c.qcow2"]));
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{options:?}");
        assert_eq!(sorted(&ended.stdout), lines, "{options:?}");
        assert!(["a", "b", "c"].iter().all(|name| is_committed(&folder, name)), "{options:?}");
    }
    let folder = pairs(&["one"]);
    let one = folder.run(&["commit", "--jobs", "4", "one.qcow2"]);
    assert_eq!(
        one,
        Ended { status: Some(0), stdout: "one.qcow2: Image committed.\n".to_owned(), stderr: String::new() }
    );
}

#[test]
fn json_is_one_object_a_line_with_all_that_a_single_commit_says() {
    if without_kvm("json_is_one_object_a_line_with_all_that_a_single_commit_says") {
        return;
    }
    let schema = strict("commit");
    for options in [&["--verify", "--stats"][..], &["-d"], &["--delete-overlay", "--sandbox=process"]] {
        let options = [&["--jobs=2", "--output=json"], options].concat();
        let ended = pairs(&["a", "b"]).run(&commit(&options, &["a.qcow2", "b.qcow2"]));
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{options:?}");
        let lines = sorted(&ended.stdout);
        assert_eq!(lines.len(), 2, "{ended:?}");
        for (line, name) in lines.iter().zip(["a", "b"]) {
            let said = read(&schema, line);
            assert_eq!((&said["overlay"], &said["bytes_committed"]), (&format!("{name}.qcow2").into(), &512.into()));
            let single = pairs(&[name]).run(&commit(&options[1..], &[&format!("{name}.qcow2")])).stdout;
            let members = |text: &str| -> Vec<String> {
                text.split('"').skip(1).step_by(2).filter(|word| !word.contains('.')).map(str::to_owned).collect()
            };
            assert_eq!(members(line), members(&single), "the same members in the same order");
        }
    }
}

#[test]
fn a_failure_in_the_middle_stops_nobody() {
    if without_kvm("a_failure_in_the_middle_stops_nobody") {
        return;
    }
    let folder = pairs(&["a", "b"]);
    folder.file("broken.qcow2", b"QFI\xfb\0\0\0\x09 no more");
    let files = ["a.qcow2", "gone.qcow2", "a.base", "broken.qcow2", "b.qcow2"];
    let ended = folder.run(&commit(&["--jobs", "2"], &files));
    assert_eq!(
        (ended.status, sorted(&ended.stdout)),
        (Some(1), vec!["a.qcow2: Image committed.", "b.qcow2: Image committed."])
    );
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let mut errors = lines[..3].to_vec();
    errors.sort_unstable();
    assert_eq!(errors[0], "instar: 'a.base': Image does not have a backing file");
    assert!(errors[1].starts_with("instar: Could not open 'broken.qcow2': "), "{errors:?}");
    assert_eq!(
        errors[2],
        "instar: Could not open 'gone.qcow2': Could not open 'gone.qcow2': No such file or directory"
    );
    assert_eq!(lines[3..], ["instar: 3 of 5 images were not committed"]);

    let schema = strict("error");
    let folder = pairs(&["a", "b"]);
    folder.file("lost.qcow2", &qcow2(1, "gone", "raw"));
    let files = ["a.base", "lost.qcow2", "a.qcow2", "gone.qcow2", "b.qcow2"];
    let ended = folder.run(&commit(&["--jobs", "2", "--output", "json"], &files));
    assert_eq!((ended.status, ended.stdout.lines().count()), (Some(1), 2), "{ended:?}");
    let told: Vec<_> = sorted(&ended.stderr).into_iter().map(|line| read(&schema, line)).collect();
    let member = |name: &str| -> Vec<&str> { told.iter().map(|told| told[name].as_str().expect("a string")).collect() };
    assert_eq!(member("code"), ["no-backing", "not-found", "not-found"]);
    let (mut files, mut overlays) = (member("file"), member("overlay"));
    files.sort_unstable();
    overlays.sort_unstable();
    assert_eq!(files, ["a.base", "gone", "gone.qcow2"]);
    assert_eq!(overlays, ["a.base", "gone.qcow2", "lost.qcow2"]);
}

#[test]
fn qemu_img_in_the_same_place_speaks_as_qemu_img() {
    let folder = Folder::new();
    let ended = folder.run(&["qemu-img", "commit", "--jobs", "2", "a", "b"]);
    let expected = [
        "qemu-img: 2 of 2 images were not committed",
        "qemu-img: Could not open 'a': Could not open 'a': No such file or directory",
        "qemu-img: Could not open 'b': Could not open 'b': No such file or directory",
    ];
    assert_eq!((ended.status, sorted(&ended.stderr)), (Some(1), expected.to_vec()));
}

#[test]
fn warnings_come_out_with_the_image_that_they_belong_to() {
    if without_kvm("warnings_come_out_with_the_image_that_they_belong_to") {
        return;
    }
    let folder = pairs(&["a", "b"]);
    folder.file("broken", b"QFI\xfb and no more");
    let ended = folder.run(&commit(&["--jobs", "2", "--check-siblings", "."], &["a.qcow2", "b.qcow2"]));
    assert_eq!((ended.status, ended.stdout.lines().count()), (Some(0), 2), "{ended:?}");
    let about_broken = "instar: warning: Could not tell what './broken' is based on: ";
    assert_eq!(ended.stderr.lines().filter(|line| line.starts_with(about_broken)).count(), 2, "{}", ended.stderr);
}

#[test]
fn overlays_of_one_base_are_committed_one_after_the_other() {
    if without_kvm("overlays_of_one_base_are_committed_one_after_the_other") {
        return;
    }
    const CLUSTERS: usize = 60;
    let folder = Folder::new();
    let parts = [0..20, 20..40, 40..60].map(|range| Disk::part(CLUSTERS, range));
    folder.file("base", &vec![0; parts[0].bytes().len()]);
    for (name, part) in ["x", "y", "z"].iter().zip(&parts) {
        folder.file(name, &part.as_ordered_qcow2(&Backing::Named("base", "raw")));
    }
    // Slow enough that the others come while one of them writes.
    let mut command = folder.instar(&commit(&["--jobs", "3", "-r", "1M"], &["x", "y", "z"]));
    let ended = finish(command.env("INSTAR_LOG", "info"));
    let lines = ["x: Image committed.", "y: Image committed.", "z: Image committed."];
    assert_eq!((ended.status, sorted(&ended.stdout)), (Some(0), lines.to_vec()), "{}", ended.stderr);
    let tried_again = ended.stderr.lines().filter(|line| line.contains("it is tried again")).count();
    assert!((1..=3).contains(&tried_again), "{tried_again}: {}", ended.stderr);
    // What the first try said is not told.
    assert!(!ended.stderr.contains("Is another process using the image"), "{}", ended.stderr);
    let all = parts[0].over(&parts[1]).over(&parts[2]).bytes();
    assert!(
        fs::read(folder.path().join("base")).expect("the base") == all,
        "the base has not the content of all three"
    );
}

#[test]
fn an_image_that_somebody_else_holds_is_not_waited_for() {
    if without_kvm("an_image_that_somebody_else_holds_is_not_waited_for") {
        return;
    }
    let folder = pairs(&["a", "b"]);
    let path = folder.path().join("a.base");
    let holder = instar::files::open_operand(path.as_os_str().as_encoded_bytes(), instar::files::Access::Write);
    let ended = folder.run(&commit(&["--jobs", "2", "--output=json"], &["a.qcow2", "b.qcow2"]));
    drop(holder.expect("nobody else"));
    assert_eq!((ended.status, ended.stdout.lines().count()), (Some(1), 1), "{ended:?}");
    let told = read(&strict("error"), ended.stderr.trim_end());
    assert_eq!((&told["code"], &told["overlay"]), (&"image-in-use".into(), &"a.qcow2".into()));
}

#[test]
fn progress_is_the_share_of_images_that_are_done() {
    if without_kvm("progress_is_the_share_of_images_that_are_done") {
        return;
    }
    let plain = pairs(&["a", "b"]).run(&commit(&["--jobs", "1", "-p"], &["a.qcow2", "b.qcow2"]));
    let expected = "    (0.00/100%)\r    (0.00/100%)\ra.qcow2: Image committed.\n    (50.00/100%)\rb.qcow2: Image committed.\n    \
                    (100.00/100%)\r    (100.00/100%)\r\n";
    assert_eq!(plain, Ended { status: Some(0), stdout: expected.to_owned(), stderr: String::new() });

    let json = pairs(&["a", "b"]).run(&commit(&["--jobs", "1", "--progress=json"], &["a.qcow2", "b.qcow2"]));
    let lines: Vec<serde_json::Value> =
        json.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a line");
    assert_eq!((&last["done_images"], &last["total_images"], &last["finished"]), (&2.into(), &2.into(), &true.into()));
    assert!(lines.iter().all(|line| line["done_bytes"].is_null()), "{json:?}");
    assert_eq!(json.stdout, "a.qcow2: Image committed.\nb.qcow2: Image committed.\n");

    let failed = pairs(&["a"]).run(&commit(&["--jobs", "1", "--progress=json"], &["a.qcow2", "gone"]));
    assert!(!failed.stderr.contains("\"finished\": true"), "{failed:?}");
}

#[test]
fn a_command_line_that_makes_no_sense_starts_nothing() {
    let folder = pairs(&["a", "b"]);
    for jobs in ["0", "257", "-1", "x", "", "1.5", "99999999999999999999"] {
        let message = format!("instar: --jobs expects a number from 1 to 256, not '{jobs}'");
        folder.fails(&["commit", "--jobs", jobs, "a.qcow2"], &message);
    }
    let help = "\nTry 'instar commit --help' for more information";
    folder.fails(&["commit", "--jobs", "2"], &format!("instar: Expecting at least one image file name{help}"));
    folder.fails(&["commit", "a.qcow2", "b.qcow2"], &format!("instar: Expecting one image file name{help}"));
    let files = ["a.qcow2", "b.qcow2", "./a.qcow2"];
    let jobs = |options: &[&str], files: &[&str], message: &str| {
        folder.fails(&commit(&[&["--jobs", "2"], options].concat(), files), &format!("instar: {message}"));
    };
    jobs(&[], &files, "'a.qcow2' and './a.qcow2' are the same file; nothing was started");
    jobs(&[], &["gone", "b.qcow2", "gone"], "'gone' is named twice; nothing was started");
    symlink("b.qcow2", folder.path().join("link")).expect("a link");
    jobs(&[], &["link", "b.qcow2"], "'link' and 'b.qcow2' are the same file; nothing was started");
    let options = ["driver=qcow2,file.filename=a.qcow2", "file.filename=./a.qcow2,driver=qcow2"];
    let message = format!("'{}' and '{}' are the same file; nothing was started", options[0], options[1]);
    jobs(&["--image-opts"], &options, &message);
    // What is wrong for all is said once.
    jobs(&["-t", "x"], &["a.qcow2", "b.qcow2"], "Invalid cache option: x");
    jobs(&["-d", "--empty"], &["a.qcow2", "b.qcow2"], "--empty and --drop are mutually exclusive");
    folder.fails(
        &["plan", "commit", "--jobs", "2", "a.qcow2"],
        "instar plan commit: unrecognized option '--jobs'\nTry 'instar plan commit --help' for more information",
    );
    let json = folder.run(&commit(&["--jobs", "2", "--output=json"], &files));
    let told = read(&strict("error"), json.stderr.trim_end());
    assert_eq!((&told["code"], &told["file"], json.status), (&"usage".into(), &"./a.qcow2".into(), Some(1)));
}

#[test]
fn a_result_that_cannot_be_shown_is_an_error_although_all_is_done() {
    if without_kvm("a_result_that_cannot_be_shown_is_an_error_although_all_is_done") {
        return;
    }
    let folder = pairs(&["a", "b"]);
    let mut command = folder.instar(&commit(&["--jobs", "1"], &["a.qcow2", "b.qcow2"]));
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let output = command.stdin(Stdio::null()).stdout(full).output().expect("the program runs");
    let line = "instar: 'NAME': Could not write the result: No space left on device\n";
    let expected = ["a.qcow2", "b.qcow2"].map(|name| line.replace("NAME", name)).concat();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()), (Some(1), expected));
    assert!(is_committed(&folder, "a") && is_committed(&folder, "b"));
}
