//! The gate for recorded names, on real directories. The stand-in for the sandbox takes a file's text as its backing name.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use instar::files::chain::{ChainError, Finding, Inspect, Layer, Links, Summary, discover};
use instar::files::policy::{Gate, GateOptions};
use instar::files::{Access, ImageFile, ImageKeys, find_base, open_operand};
use instar_abi::job::format;
use proptest::prelude::*;

struct TextIsBackingName;

impl Inspect for TextIsBackingName {
    type Error = std::convert::Infallible;

    fn inspect(&mut self, image: &ImageFile, _format: u32) -> Result<Summary, Finding<Self::Error>> {
        let mut text = Vec::new();
        let mut file = image.file();
        file.read_to_end(&mut text).expect("the file can be read");
        let backing_name = (!text.is_empty()).then_some(text);
        Ok(Summary { format: format::QCOW2, backing_name, ..Summary::default() })
    }
}

/// `ROOT/vm/top` stands for the overlay; `ROOT/vm` is its tree, `ROOT/other` lies outside.
struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
    options: GateOptions,
    access: Access,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().canonicalize().expect("it exists");
        fs::create_dir_all(root.join("vm/sub")).expect("vm/sub");
        fs::create_dir_all(root.join("other/deep")).expect("other/deep");
        let place = Self { _directory: directory, root, options: GateOptions::default(), access: Access::Read };
        place.image("vm/base", "").image("vm/sub/base", "").image("other/base", "").image("other/deep/base", "");
        place
    }

    fn image(&self, name: &str, backing: &str) -> &Self {
        fs::write(self.root.join(name), backing).expect("an image");
        self
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) -> &Self {
        symlink(target, self.root.join(name)).expect("a link");
        self
    }

    fn allow(mut self, directory: &str) -> Self {
        self.options.allowed_directories.push(self.root.join(directory));
        self
    }

    fn absolute(&self, name: &str) -> String {
        self.root.join(name).to_str().expect("UTF-8").to_owned()
    }

    fn chain_of(&self, overlay: &Path) -> Result<Vec<Layer>, String> {
        let overlay = overlay.as_os_str().as_bytes();
        let gate = Gate::new(overlay, &self.options).map_err(|cause| cause.to_string())?;
        let image = open_operand(overlay, self.access).map_err(|cause| cause.to_string())?;
        discover(&gate, image, format::PROBE, ImageKeys::default(), Links::OfOverlay, &mut TextIsBackingName).map_err(
            |error| match error {
                ChainError::Open(error) => error.to_string().replace(self.root.to_str().expect("UTF-8"), "ROOT"),
                ChainError::Sandbox { error, .. } => match error {},
            },
        )
    }

    /// Opens an overlay that records `backing`, and says where that led.
    fn follow(&self, backing: &str) -> Result<String, String> {
        self.image("vm/top", backing);
        let layers = self.chain_of(&self.root.join("vm/top"))?;
        let last = layers.last().expect("at least the overlay").image.canonical();
        Ok(last.strip_prefix(&self.root).expect("below the root").to_str().expect("UTF-8").to_owned())
    }

    #[track_caller]
    fn leads(&self, backing: &str, to: &str) {
        assert_eq!(self.follow(backing).as_deref(), Ok(to), "{backing}");
    }

    #[track_caller]
    fn forbidden(&self, backing: &str) {
        let said = self.follow(backing).expect_err(backing);
        let expected = format!(
            "Could not open 'ROOT/vm/top': Could not open backing file: The image names '{}', which is outside of the \
             directories that may be used; --allow-dir DIR allows a directory, --allow-any-path every file",
            backing.replace(self.root.to_str().expect("UTF-8"), "ROOT")
        );
        assert_eq!(said, expected);
    }

    #[track_caller]
    fn says(&self, backing: &str, words: &str) {
        let said = self.follow(backing).expect_err(backing);
        assert_eq!(said, format!("Could not open 'ROOT/vm/top': Could not open backing file: {words}"));
    }
}

#[test]
fn names_below_the_overlay_are_followed() {
    let place = Place::new();
    place.leads("base", "vm/base");
    place.leads("./sub//base", "vm/sub/base");
    place.leads("sub/../base", "vm/base");
    place.leads(&place.absolute("vm/sub/base"), "vm/sub/base");
    place.leads("../vm/base", "vm/base");
    place.leads("sub/../../vm/./sub/base", "vm/sub/base");
}

#[test]
fn names_elsewhere_are_refused_alike_whether_or_not_they_exist() {
    let place = Place::new();
    for name in ["other/base", "other/nothing", "other/nothing/base", "other/base/below", "other", "nothing", ""] {
        place.forbidden(&format!("../{name}"));
        place.forbidden(&format!("sub/../../{name}"));
        place.forbidden(&place.absolute(name));
    }
    place.forbidden("../other/../vm/base");
    place.forbidden("..");
    place.forbidden("/etc/shadow");
    place.forbidden("/");
    place.forbidden("/../../..");
    place.forbidden("/proc/self/fd/0");
}

#[test]
fn links_that_leave_the_tree_are_refused_alike_whether_or_not_their_target_exists() {
    let place = Place::new();
    place.link("../other/base", "vm/out").link("../other/nothing", "vm/dangling");
    place.link("../other", "vm/out-directory").link(place.absolute("other/base"), "vm/out-absolute");
    place.link(place.absolute("nothing"), "vm/dangling-absolute").link("out", "vm/out-twice");
    for name in ["out", "dangling", "out-absolute", "dangling-absolute", "out-twice"] {
        place.forbidden(name);
    }
    for name in ["out-directory/base", "out-directory/nothing", "out-directory/../vm/base"] {
        place.forbidden(name);
    }
}

#[test]
fn links_within_the_tree_are_followed() {
    let place = Place::new();
    place.link("sub/base", "vm/in").link(place.absolute("vm/sub"), "vm/in-directory").link("../base", "vm/sub/up");
    place.link("loop", "vm/loop");
    place.leads("in", "vm/sub/base");
    place.leads("in-directory/base", "vm/sub/base");
    place.leads("in-directory/../base", "vm/base");
    place.leads("in-directory/up", "vm/base");
    place.says("loop", "Could not open 'ROOT/vm/loop': Too many levels of symbolic links");
}

#[test]
fn allowed_directories_are_trees_of_their_own() {
    let place = Place::new().allow("other");
    place.link("../other/deep/base", "vm/link").link(place.absolute("vm/base"), "other/back");
    place.leads("../other/base", "other/base");
    place.leads(&place.absolute("other/deep/base"), "other/deep/base");
    place.leads("link", "other/deep/base");
    place.leads("../other/back", "vm/base");
    place.forbidden("../other/../elsewhere");
    place.says("../other/nothing", "Could not open 'ROOT/vm/../other/nothing': No such file or directory");
}

#[test]
fn a_directory_that_is_only_above_an_allowed_one_stays_shut() {
    let place = Place::new().allow("other/deep");
    place.leads("../other/deep/base", "other/deep/base");
    place.forbidden("../other/base");
    place.forbidden("../other/deep/../base");
    place.forbidden("../other");
}

#[test]
fn the_name_under_which_the_user_knows_a_directory_counts_too() {
    let place = Place::new();
    place.link("vm", "alias");
    let overlay = place.root.join("alias/top");
    for (backing, to) in [("alias/base", "vm/base"), ("vm/base", "vm/base")] {
        place.image("vm/top", &place.absolute(backing));
        let layers = place.chain_of(&overlay).expect("followed");
        assert_eq!(*layers[1].image.canonical(), place.root.join(to));
    }
    place.image("vm/top", &place.absolute("alias/../other/base"));
    assert!(place.chain_of(&overlay).expect_err("refused").contains("is outside of the directories"));
}

#[test]
fn directories_from_the_environment_may_be_missing_but_named_ones_may_not() {
    let mut place = Place::new();
    place.options.environment_directories = vec![place.root.join("nothing"), place.root.join("other")];
    place.leads("../other/base", "other/base");
    let place = place.allow("nothing");
    let said = place.follow("base").expect_err("no such directory");
    assert_eq!(
        said.replace(place.root.to_str().expect("UTF-8"), "ROOT"),
        "Could not open 'ROOT/nothing': No such file or directory"
    );
}

#[test]
fn any_path_follows_everything_that_is_a_file() {
    let mut place = Place::new();
    place.options.any_path = true;
    place.leads("../other/base", "other/base");
    place.leads(&place.absolute("other/deep/../base"), "other/base");
    place.says("../nothing", "Could not open 'ROOT/vm/../nothing': No such file or directory");
    place.says("nosuch:base", "Unknown protocol 'nosuch'");
    place.says("/dev/null", "'file' driver requires '/dev/null' to be a regular file");
}

#[test]
fn a_named_base_is_consent_for_that_file_alone() {
    for operand in ["../other/base", "ABSOLUTE"] {
        let mut place = Place::new();
        let operand = operand.replace("ABSOLUTE", &place.absolute("other/base"));
        place.options.named_base = Some(operand.into_bytes());
        place.link("../other/base", "vm/link");
        place.leads("../other/base", "other/base");
        place.leads(&place.absolute("other/base"), "other/base");
        place.leads("link", "other/base");
        place.forbidden("../other/deep/base");
        place.forbidden("../other/nothing");
        place.forbidden("../other/base/below");
    }
}

#[test]
fn relative_names_start_where_their_image_lies() {
    let place = Place::new();
    place.image("vm/sub/mid", "base");
    place.leads("sub/mid", "vm/sub/base");
    place.image("vm/sub/mid", "../base");
    place.leads("sub/mid", "vm/base");
    place.image("vm/sub/mid", "../../other/base");
    let said = place.follow("sub/mid").expect_err("outside");
    assert!(said.starts_with(
        "Could not open 'ROOT/vm/top': Could not open backing file: Could not open backing file: The image names '../../other/base'"
    ));
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.root.join("vm/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    place.says("pipe", "'file' driver requires 'ROOT/vm/pipe' to be a regular file");
    place.says("sub", "'file' driver requires 'ROOT/vm/sub' to be a regular file");
    place.says("sub/", "'file' driver requires 'ROOT/vm/sub/' to be a regular file");
    place.says(".", "'file' driver requires 'ROOT/vm/.' to be a regular file");
    place.says("base/", "Could not open 'ROOT/vm/base/': Not a directory");
    place.says("base/below", "Could not open 'ROOT/vm/base/below': Not a directory");
}

#[test]
fn names_that_are_no_local_files_are_refused() {
    let place = Place::new();
    place.says("nosuch:base", "Unknown protocol 'nosuch'");
    place.says("fd:0", "Unknown protocol 'fd'");
    place.says("nbd:host:1", "'nbd:host:1' uses the protocol 'nbd'; only names of local files are followed");
    place.says("json:{", "'json:{' could not be parsed; only names of local files are followed");
    place.says("file:", "The 'file' block driver requires a file name");
    place.forbidden("file:../../../../../../../../etc/passwd");
    place.forbidden(r#"json:{"driver":"qcow2","file.filename":"/etc/passwd"}"#);
    place.leads(&format!("file:{}", place.absolute("vm/base")), "vm/base");
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let place = Place::new();
    place.says("a\x1b[2Jb\nc", "Could not open 'ROOT/vm/a\\x1b[2Jb\\nc': No such file or directory");
    let said = place.follow("../a\x1b[2Jb").expect_err("outside");
    assert!(said.contains("The image names '../a\\x1b[2Jb', which"));
}

#[test]
fn a_chain_that_contains_its_overlay_ends_at_the_lock() {
    let mut place = Place::new();
    place.access = Access::Write;
    place.image("vm/mid", "top");
    let said = place.follow("mid").expect_err("a loop");
    assert_eq!(
        said,
        "Could not open 'ROOT/vm/top': Could not open backing file: Could not open backing file: \
         Failed to get shared \"write\" lock\nIs another process using the image [ROOT/vm/top]?"
    );
}

#[test]
fn a_loop_below_the_overlay_is_found() {
    let place = Place::new();
    place.image("vm/a", "b").image("vm/b", "a");
    place.says(
        "a",
        "Could not open backing file: Could not open backing file: Backing file 'ROOT/vm/a' creates an infinite loop.",
    );
    fs::hard_link(place.root.join("vm/a"), place.root.join("vm/c")).expect("a second name");
    place.image("vm/b", "c");
    assert!(place.follow("a").expect_err("the same file").contains("infinite loop"));
}

#[test]
fn an_endless_chain_ends_at_the_limit() {
    let place = Place::new();
    for index in 0..=200 {
        place.image(&format!("vm/{index}"), &(index + 1).to_string());
    }
    let error = place.follow("0").expect_err("too long");
    assert!(
        error.ends_with("': The backing chain is longer than 200 images; commit lower ones of them first"),
        "{error}"
    );
}

#[test]
fn bases_are_found_by_what_their_names_mean() {
    let place = Place::new();
    place.image("vm/mid", "sub/base").image("vm/top", "./mid").link("vm/sub/base", "link");
    let overlay = place.root.join("vm/top");
    let layers = place.chain_of(&overlay).expect("followed");
    let gate = Gate::new(overlay.as_os_str().as_bytes(), &place.options).expect("a gate");
    let found = |operand: &str| find_base(&gate, &layers, operand.as_bytes());
    assert_eq!(found("mid"), Some(1));
    assert_eq!(found("sub/../mid"), Some(1));
    assert_eq!(found("sub/base"), Some(2));
    assert_eq!(found("../link"), Some(2));
    assert_eq!(found(&place.absolute("vm/sub/base")), Some(2));
    for operand in ["", "top", "base", "vm/mid", "nothing", "file:mid", "nosuch:mid"] {
        assert_eq!(found(operand), None, "{operand}");
    }
}

/// Components and prefixes that matter to the gate, in any order.
fn any_name() -> impl Strategy<Value = String> {
    let part =
        prop::sample::select(vec!["..", ".", "", "vm", "sub", "base", "other", "deep", "out", "in", "loop", "x"]);
    let prefix = prop::sample::select(vec!["", "", "/", "ROOT/", "file:", "file:ROOT/", "json:", "nbd:"]);
    (prefix, prop::collection::vec(part, 0..7)).prop_map(|(prefix, parts)| format!("{prefix}{}", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_name_leads_out_of_what_is_allowed(names in prop::collection::vec(any_name(), 20)) {
        let place = Place::new().allow("other/deep");
        place.link("../other/base", "vm/out").link("sub", "vm/in").link("loop", "vm/loop");
        place.link("../../other/deep", "vm/sub/x").link("../..", "other/deep/out");
        for name in names {
            let name = name.replace("ROOT", place.root.to_str().expect("UTF-8"));
            if let Ok(led) = place.follow(&name) {
                prop_assert!(led.starts_with("vm/") || led.starts_with("other/deep/"), "{} led to {}", name, led);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_name_or_refused(name in prop::collection::vec(any::<u8>(), 1..80)) {
        let place = Place::new();
        fs::write(place.root.join("vm/top"), &name).expect("an image");
        if let Err(said) = place.chain_of(&place.root.join("vm/top")) {
            prop_assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }
}
