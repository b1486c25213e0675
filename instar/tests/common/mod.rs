//! What the tests of the program share: a folder to run it in, and how it ended. `kvm.rs` and `image.rs` beside this file
//! are for those that need the sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::CommandCargoExt;

/// How a run of the program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A folder of its own, in which the program runs.
pub(crate) struct Folder {
    directory: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, and the directories that lead to it.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// The program, ready to be run in the folder, without a user's own settings.
    pub(crate) fn instar(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("instar").expect("the program is built");
        command.current_dir(self.path()).args(arguments).env("TZ", "UTC");
        command.env_remove("INSTAR_ALLOW_DIRS").env_remove("INSTAR_LOG").env_remove("INSTAR_SANDBOX");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        finish(&mut self.instar(arguments))
    }

    /// Runs the program, which must fail with this message and nothing else, and change no file.
    #[track_caller]
    #[allow(dead_code, reason = "each test uses a part")]
    pub(crate) fn fails(&self, arguments: &[&str], message: &str) {
        let before = self.content();
        let expected = Ended { status: Some(1), stdout: String::new(), stderr: format!("{message}\n") };
        assert_eq!(self.run(arguments), expected, "{arguments:?}");
        assert_eq!(self.content(), before, "{arguments:?} changed something");
    }

    #[allow(dead_code, reason = "each test uses a part")]
    fn content(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut content = Vec::new();
        let mut directories = vec![self.path().to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let kind = fs::symlink_metadata(&path).expect("it exists").file_type();
                if kind.is_dir() {
                    directories.push(path.clone());
                }
                let bytes = kind.is_file().then(|| fs::read(&path).expect("a file"));
                content.push((path, bytes));
            }
        }
        content.sort();
        content
    }
}

pub(crate) fn finish(command: &mut Command) -> Ended {
    let output = command.stdin(std::process::Stdio::null()).output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
