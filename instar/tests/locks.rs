//! Image locks against real qemu programs, in both directions.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use instar::files::{Access, ImageFile, open_operand};

/// Both programs, or the sentence that says why the test cannot run.
fn qemu_is_missing(test: &str) -> bool {
    let missing =
        ["qemu-img", "qemu-io"].iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = missing {
        eprintln!("{test}: not run, {program} is not installed");
    }
    missing.is_some()
}

struct Image {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn create() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("image.qcow2");
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status();
        assert!(made.expect("qemu-img runs").success());
        Self { _directory: directory, path }
    }

    fn open(&self, access: Access) -> Result<ImageFile, String> {
        open_operand(self.path.as_os_str().as_bytes(), access).map_err(|cause| cause.to_string())
    }

    /// Waits until the image can be opened for writing. A child that another test has forked holds what this process has had open, its locks
    /// with it, until it runs its own program.
    #[track_caller]
    fn becomes_free(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(cause) = self.open(Access::Write) {
            assert!(Instant::now() < deadline, "{cause}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn refused(&self, access: Access, lock: &str) {
        let expected =
            format!("Failed to get {lock} lock\nIs another process using the image [{}]?", self.path.display());
        assert_eq!(self.open(access).expect_err("somebody holds it"), expected);
    }
}

/// A qemu-io that has the image open until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(image: &Path, options: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(options)
            .args(["-f", "qcow2"])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io runs");
        // An answer means that the image is open and locked.
        writeln!(child.stdin.as_mut().expect("a pipe"), "length").expect("it listens");
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut answer).expect("it answers");
        assert!(answer.contains("1 MiB"), "{answer}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[track_caller]
fn qemu_refuses(output: &Output, lock: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&format!("Failed to get {lock} lock")), "{said}");
}

fn run(program: &str, arguments: &[&str], image: &Path) -> Output {
    Command::new(program).args(arguments).arg(image).stdin(Stdio::null()).output().expect("it runs")
}

#[test]
fn an_image_that_qemu_io_writes_is_refused() {
    if qemu_is_missing("an_image_that_qemu_io_writes_is_refused") {
        return;
    }
    let image = Image::create();
    let holder = Holder::of(&image.path, &[]);
    image.refused(Access::Write, "\"write\"");
    image.refused(Access::Read, "shared \"write\"");
    image.refused(Access::Look, "shared \"write\"");
    image.open(Access::Unlocked).expect("who takes no lock is not refused");
    drop(holder);
    image.becomes_free();
}

#[test]
fn an_image_that_qemu_io_reads_can_be_read_but_not_written() {
    if qemu_is_missing("an_image_that_qemu_io_reads_can_be_read_but_not_written") {
        return;
    }
    let image = Image::create();
    let holder = Holder::of(&image.path, &["-r"]);
    image.open(Access::Look).expect("metadata");
    let mut reader = image.open(Access::Read).expect("shared reading");
    image.refused(Access::Write, "\"write\"");
    let said = reader.make_writable().expect_err("the other reader does not share writing").to_string();
    assert!(said.starts_with("Failed to get \"write\" lock\n"), "{said}");
    drop((holder, reader));
    image.becomes_free();
}

#[test]
fn qemu_refuses_an_image_that_is_open_for_writing_here() {
    if qemu_is_missing("qemu_refuses_an_image_that_is_open_for_writing_here") {
        return;
    }
    let image = Image::create();
    let writer = image.open(Access::Write).expect("free");
    qemu_refuses(&run("qemu-io", &["-c", "quit"], &image.path), "\"write\"");
    qemu_refuses(&run("qemu-io", &["-r", "-c", "quit"], &image.path), "shared \"write\"");
    qemu_refuses(&run("qemu-img", &["info"], &image.path), "shared \"write\"");
    drop(writer);
    assert!(run("qemu-img", &["info"], &image.path).status.success());
}

#[test]
fn qemu_may_read_but_not_write_an_image_that_is_read_here() {
    if qemu_is_missing("qemu_may_read_but_not_write_an_image_that_is_read_here") {
        return;
    }
    let image = Image::create();
    for access in [Access::Read, Access::Look] {
        let reader = image.open(access).expect("free");
        assert!(run("qemu-io", &["-r", "-c", "quit"], &image.path).status.success());
        qemu_refuses(&run("qemu-io", &["-c", "quit"], &image.path), "\"write\"");
        drop(reader);
    }
}

#[test]
fn a_reader_that_became_a_writer_keeps_qemu_out_until_it_is_closed() {
    if qemu_is_missing("a_reader_that_became_a_writer_keeps_qemu_out_until_it_is_closed") {
        return;
    }
    let image = Image::create();
    let mut reader = image.open(Access::Read).expect("free");
    reader.make_writable().expect("alone");
    reader.file().set_len(1 << 20).expect("it can be written");
    qemu_refuses(&run("qemu-img", &["info"], &image.path), "shared \"write\"");
    let copy = reader.file().try_clone().expect("a second descriptor");
    drop(reader);
    qemu_refuses(&run("qemu-img", &["info"], &image.path), "shared \"write\"");
    drop(copy);
    assert!(run("qemu-img", &["info"], &image.path).status.success());
}
