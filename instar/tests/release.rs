//! `scripts/release` refuses what must not become a release. Its cheap checks are tried here, on a small repository; the others are
//! tests and programs of their own.

use std::fs;
use std::path::Path;
use std::process::Command;

struct Repository(tempfile::TempDir);

impl Repository {
    /// A repository with the gate in it, whose version has its heading.
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().expect("a folder"));
        let gate = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").join("scripts/release");
        fs::create_dir_all(repository.path().join("scripts")).expect("a folder");
        fs::copy(gate, repository.path().join("scripts/release")).expect("the gate");
        for manifest in ["Cargo.toml", "guests/Cargo.toml"] {
            repository.write(manifest, "[workspace.package]\nversion = \"1.2.0\"\n\n[other]\nversion = \"9.9.9\"\n");
        }
        repository.write("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2027-01-31\n");
        repository.git(&["init", "--quiet"]);
        repository.commit();
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("written");
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
        let status = Command::new("git").current_dir(self.path()).args(identity).args(arguments).status();
        assert!(status.expect("git runs").success(), "git {arguments:?}");
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "state"]);
    }

    /// Status and standard error of the gate.
    fn gate(&self, checks: &[&str]) -> (Option<i32>, String) {
        // By the shell that the script names: a file that was just written may still be open for writing in a forked process.
        let mut command = Command::new("bash");
        let output = command.arg(self.path().join("scripts/release")).args(checks).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    }

    #[track_caller]
    fn refuses(&self, checks: &[&str], reason: &str) {
        let (status, said) = self.gate(checks);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(&format!("release: refused: {reason}")), "{said}");
        assert!(!said.contains("nothing speaks against it"), "{said}");
    }
}

#[test]
fn a_clean_tree_with_a_heading_for_its_version_passes() {
    let (status, said) = Repository::new().gate(&["tree", "changelog"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.ends_with("release: nothing speaks against it (checked: tree changelog)\n"), "{said}");
}

#[test]
fn what_is_not_committed_is_refused() {
    let repository = Repository::new();
    repository.write("new-file", "");
    repository.refuses(&["tree"], "the tree has changes that are not committed:\n?? new-file");
    repository.commit();
    repository.write("CHANGELOG.md", "");
    repository.refuses(&["tree"], "the tree has changes that are not committed:\n M CHANGELOG.md");
}

#[test]
fn a_version_without_its_heading_is_refused() {
    let repository = Repository::new();
    for text in ["## [Unreleased]\n", "## [1.2.0]\n", "## [1x2.0] - 2027-01-31\n", "## [1.2.01] - 2027-01-31\n"] {
        repository.write("CHANGELOG.md", text);
        repository.refuses(&["changelog"], "CHANGELOG.md has no heading '## [1.2.0] - YEAR-MONTH-DAY'");
    }
}

#[test]
fn manifests_that_disagree_are_refused() {
    let repository = Repository::new();
    repository.write("guests/Cargo.toml", "[workspace.package]\nversion = \"1.1.0\"\n");
    repository.refuses(&["changelog"], "Cargo.toml says version 1.2.0, guests/Cargo.toml 1.1.0");
}

#[test]
fn a_check_that_does_not_exist_is_refused_before_anything_runs() {
    let repository = Repository::new();
    repository
        .refuses(&["tree", "bogus"], "there is no check 'bogus'; there are: tree changelog recordings crash guests");
}
