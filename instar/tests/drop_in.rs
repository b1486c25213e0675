//! instar in qemu-img's place: what it does itself, what it passes on and to whom, and that OpenStack can read its `info`.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, Folder, finish};
use image::qcow2;
use kvm::without_kvm;

/// Says how it was called, and ends in a way of its own.
const STAND_IN: &str = "#!/bin/sh\necho \"real:$0\"\nfor word in \"$@\"; do echo \"<$word>\"; done\nexit 3\n";

/// A folder with instar under qemu-img's name, and another with a qemu-img that only says how it was called.
struct Places {
    folder: Folder,
    instar: PathBuf,
    real: PathBuf,
}

impl Places {
    fn new() -> Self {
        let folder = Folder::new();
        let instar = folder.path().join("instar/qemu-img");
        fs::create_dir(folder.path().join("instar")).expect("a folder");
        symlink(folder.instar(&[]).get_program(), &instar).expect("a link");
        let real = folder.file("real/qemu-img", STAND_IN.as_bytes());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).expect("permissions");
        Self { folder, instar, real }
    }

    /// `program` with both folders in PATH, instar's first.
    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        let path = [&self.instar, &self.real].map(|program| program.parent().expect("a folder").display().to_string());
        command.current_dir(self.folder.path()).args(words).env("PATH", path.join(":"));
        command.env_remove("INSTAR_REAL_QEMU_IMG").env_remove("INSTAR_PASSED_ON").env_remove("INSTAR_LOG");
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        finish(&mut self.command(&self.instar, words))
    }

    /// What the stand-in says to these words.
    fn passed(&self, words: &[&str]) -> Ended {
        let shown: String = words.iter().map(|word| format!("<{word}>\n")).collect();
        let stdout = format!("real:{}\n{shown}", self.real.display());
        Ended { status: Some(3), stdout, stderr: String::new() }
    }
}

fn failed(text: &str) -> Ended {
    Ended { status: Some(1), stdout: String::new(), stderr: format!("{text}\n") }
}

#[test]
fn everything_else_is_passed_on_word_for_word() {
    let places = Places::new();
    for words in [
        &[][..],
        &["--version"],
        &["-V", "commit"],
        &["--help"],
        &["create", "-f", "qcow2", "a b", "", "1G"],
        &["-T", "x", "convert", "--", "-a", "info"],
        &["nosuch", "-v", "--output=json"],
        &["check", "commit"],
    ] {
        assert_eq!(places.run(words), places.passed(words), "{words:?}");
        let instar = places.folder.instar(&[]);
        let typed = [&["qemu-img"], words].concat();
        let mut command = places.command(Path::new(instar.get_program()), &typed);
        assert_eq!(finish(&mut command), places.passed(words), "instar qemu-img {words:?}");
    }
}

#[test]
fn the_environment_names_the_real_one() {
    let places = Places::new();
    let other = places.folder.file("other", b"#!/bin/sh\necho other $1\n");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("permissions");
    let with = |real: &Path| finish(places.command(&places.instar, &["check"]).env("INSTAR_REAL_QEMU_IMG", real));
    assert_eq!(with(&other).stdout, "other check\n");
    let own = places.instar.display();
    assert_eq!(with(&places.instar), failed(&format!("qemu-img: INSTAR_REAL_QEMU_IMG names instar itself: '{own}'")));
    let text = "qemu-img: Could not run '/no/such', which is to do 'check': No such file or directory";
    assert_eq!(with(Path::new("/no/such")), failed(text));
}

#[test]
fn nobody_else_there_is_an_error() {
    let places = Places::new();
    let alone = places.instar.parent().expect("a folder").to_owned();
    let text = "qemu-img: instar does commit, info and rebase, and found no other qemu-img in PATH for 'map'; \
                install it, or name it in INSTAR_REAL_QEMU_IMG";
    assert_eq!(finish(places.command(&places.instar, &["map", "a"]).env("PATH", &alone)), failed(text));
    // A script that only leads back.
    let script = format!("#!/bin/sh\nexec '{}' \"$@\"\n", places.instar.display());
    fs::write(&places.real, script).expect("written");
    let text = "qemu-img: 'map' was passed on to qemu-img, and came back to instar; name the real qemu-img in \
                INSTAR_REAL_QEMU_IMG";
    assert_eq!(places.run(&["map", "a"]), failed(text));
}

#[test]
fn own_commands_speak_as_qemu_img_does() {
    let places = Places::new();
    let missing = "qemu-img: Could not open 'a': Could not open 'a': No such file or directory";
    for words in [&["commit", "a"][..], &["info", "-U", "--output=json", "a"], &["rebase", "-u", "-b", "", "a"]] {
        assert_eq!(places.run(words), failed(missing), "{words:?}");
    }
    let hint = "Try 'qemu-img commit --help' for more information";
    assert_eq!(places.run(&["commit", "-Z"]), failed(&format!("qemu-img commit: invalid option -- 'Z'\n{hint}")));
    assert_eq!(places.run(&["commit"]), failed(&format!("qemu-img: Expecting one image file name\n{hint}")));
    assert!(places.run(&["rebase", "--help"]).stdout.contains("Usage: qemu-img rebase"));
    let warning = "qemu-img: warning: options in front of 'info' have no effect: instar does it, which has no trace \
                   points of qemu-img's";
    assert_eq!(places.run(&["-T", "x", "info", "a"]), failed(&format!("{warning}\n{missing}")));
    let told = places.run(&["commit", "--output=json", "a"]).stderr;
    assert!(told.starts_with("{\"code\":\"not-found\","), "{told}");
}

#[test]
fn own_commands_do_their_work() {
    if without_kvm("own_commands_do_their_work") {
        return;
    }
    let places = Places::new();
    places.folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    places.folder.file("top.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    let done = |stdout: &str| Ended { status: Some(0), stdout: stdout.to_owned(), stderr: String::new() };
    assert_eq!(places.run(&["commit", "top.qcow2"]), done("Image committed.\n"));
    assert_eq!(places.run(&["rebase", "-b", "", "top.qcow2"]), done(""));
    let info = places.run(&["info", "top.qcow2"]);
    assert!(info.stdout.starts_with("image: top.qcow2\nfile format: qcow2\n"), "{info:?}");
    assert_eq!(info, places.folder.run(&["info", "top.qcow2"]));
}

#[test]
fn openstack_reads_info() {
    const TEST: &str = "openstack_reads_info";
    if without_kvm(TEST) {
        return;
    }
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0xbb, "", ""));
    folder.file("top.qcow2", &qcow2(0x11, "base.qcow2", "qcow2"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qemu_img_info.py");
    let python = std::env::var_os("INSTAR_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    for form in ["json", "human"] {
        // As nova calls it.
        let info = folder.run(&["qemu-img", "info", "top.qcow2", "--force-share", &format!("--output={form}")]);
        assert_eq!((info.status, info.stderr.as_str()), (Some(0), ""));
        let file = folder.file(form, info.stdout.as_bytes());
        let Ok(output) = Command::new(&python).arg(&script).arg(form).arg(file).output() else {
            eprintln!("{TEST}: skipped, {} cannot be run", python.display());
            return;
        };
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        if output.status.code() == Some(77) {
            eprintln!("{TEST}: form {form} skipped: {}", text.trim_end());
            continue;
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The human form has the backing file behind "actual path" only where the two names differ.
        let expected = format!(
            "image=top.qcow2\nfile_format=qcow2\nvirtual_size={}\ncluster_size=512\nbacking_file=base.qcow2\n\
             encrypted=None\nhas_disk_size=True\nsnapshots=\n",
            image::DISK_BYTES
        );
        assert_eq!(text, expected, "form {form}");
    }
}
