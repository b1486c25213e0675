//! What the command line parser refuses, word for word. No image is opened, so nothing here needs the sandbox.

mod common;

use common::{Ended, Folder, finish};

#[track_caller]
fn usage(arguments: &[&str], prefix: &str, text: &str) {
    Folder::new().fails(arguments, &format!("{prefix}: {text}\nTry '{} --help' for more information", hint(arguments)));
}

fn hint(arguments: &[&str]) -> String {
    match arguments.first() {
        Some(command) if ["commit", "info", "rebase"].contains(command) => format!("instar {command}"),
        _ => "instar".to_owned(),
    }
}

#[test]
fn commands_that_do_not_exist_are_named() {
    usage(&[], "instar", "Not enough arguments");
    usage(&["nosuch"], "instar", "Command not found: nosuch");
    usage(&["-z"], "instar", "invalid option -- 'z'");
    usage(&["--bogus"], "instar", "unrecognized option '--bogus'");
}

#[test]
fn exactly_one_file_is_expected() {
    for command in ["commit", "info", "rebase"] {
        usage(&[command], "instar", "Expecting one image file name");
        usage(&[command, "a", "b"], "instar", "Expecting one image file name");
        usage(&[command, "a", "a"], "instar", "Expecting one image file name");
    }
    usage(&["commit", "-t", "bogus"], "instar", "Expecting one image file name");
}

#[test]
fn unknown_options_read_as_the_c_library_words_them() {
    usage(&["commit", "-Z", "a"], "instar commit", "invalid option -- 'Z'");
    usage(&["commit", "-qZ", "a"], "instar commit", "invalid option -- 'Z'");
    usage(&["commit", "-U", "a"], "instar commit", "invalid option -- 'U'");
    usage(&["commit", "-c", "a"], "instar commit", "invalid option -- 'c'");
    usage(&["commit", "--bogus", "a"], "instar commit", "unrecognized option '--bogus'");
    usage(&["commit", "--bogus=1", "a"], "instar commit", "unrecognized option '--bogus=1'");
    usage(&["commit", "--version"], "instar commit", "unrecognized option '--version'");
    usage(&["commit", "--drop=1", "a"], "instar commit", "option '--drop' doesn't allow an argument");
    usage(&["rebase", "-Z", "a"], "instar rebase", "invalid option -- 'Z'");
    usage(&["info", "--bogus"], "instar info", "unrecognized option '--bogus'");
}

#[test]
fn missing_values_name_the_option_as_typed() {
    for letter in ["f", "t", "b", "r"] {
        let option = format!("-{letter}");
        usage(&["commit", &option], "instar commit", &format!("option requires an argument -- '{letter}'"));
    }
    usage(&["commit", "a", "-qf"], "instar commit", "option requires an argument -- 'f'");
    for option in ["--format", "--cache", "--base", "--rate-limit", "--output", "--allow-dir", "--object"] {
        usage(&["commit", option], "instar commit", &format!("option '{option}' requires an argument"));
    }
    usage(&["commit", "--form"], "instar commit", "option '--format' requires an argument");
}

#[test]
fn options_take_whatever_follows_and_the_last_one_counts() {
    let folder = Folder::new();
    folder.fails(&["commit", "-t", "-q", "a"], "instar: Invalid cache option: -q");
    folder.fails(
        &["commit", "a", "-t", "bogus", "-t", "none"],
        "instar: Could not open 'a': Could not open 'a': No such file or directory",
    );
    folder.fails(
        &["commit", "-qdp", "a", "-q"],
        "instar: Could not open 'a': Could not open 'a': No such file or directory",
    );
    folder
        .fails(&["commit", "--", "-a"], "instar: Could not open '-a': Could not open '-a': No such file or directory");
}

#[test]
fn values_without_meaning_are_refused() {
    let folder = Folder::new();
    folder.fails(&["commit", "-t", "bogus", "a"], "instar: Invalid cache option: bogus");
    folder.fails(&["commit", "-r", "abc", "a"], "instar: Invalid rate limit specified: 'abc'");
    folder.fails(&["commit", "-r", "1x"], "instar: Invalid rate limit specified: '1x'");
    let range = "instar: Invalid rate limit specified. Must be between 0 and 9223372036854775807.";
    folder.fails(&["commit", "-r", "-5", "a"], range);
    folder.fails(&["commit", "-r", "8E", "a"], range);
    folder.fails(
        &["commit", "--image-opts", "-f", "qcow2", "a"],
        "instar: --image-opts and --format are mutually exclusive",
    );
    folder.fails(&["commit", "-f", "bogus", "a"], "instar: Could not open 'a': Unknown driver 'bogus'");
    folder.fails(&["commit", "-f", "QCOW2", "a"], "instar: Could not open 'a': Unknown driver 'QCOW2'");
    for command in ["commit", "info"] {
        usage(&[command, "--output=xml", "a"], "instar", "--output expects 'human' or 'json', not 'xml'");
    }
    usage(&["info", "--qemu-version", "x", "a"], "instar", "--qemu-version expects a version such as 8.2.0, not 'x'");
}

#[test]
fn files_that_are_no_images_are_refused_before_the_sandbox_is_needed() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("dir")).expect("a directory");
    nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    folder.file("plain", b"");
    for command in ["commit", "info"] {
        folder.fails(&[command, "a"], "instar: Could not open 'a': Could not open 'a': No such file or directory");
        folder.fails(
            &[command, "plain/a"],
            "instar: Could not open 'plain/a': Could not open 'plain/a': Not a directory",
        );
        folder.fails(&[command, ""], "instar: Could not open '': The 'file' block driver requires a file name");
        folder.fails(
            &[command, "pipe"],
            "instar: Could not open 'pipe': 'file' driver requires 'pipe' to be a regular file",
        );
        folder.fails(&[command, "nosuch:a"], "instar: Could not open 'nosuch:a': Unknown protocol 'nosuch'");
    }
    folder.fails(&["commit", "dir"], "instar: Could not open 'dir': Could not open 'dir': Is a directory");
    folder.fails(&["info", "dir"], "instar: Could not open 'dir': 'file' driver requires 'dir' to be a regular file");
    folder.fails(
        &["commit", "a\x1b[1m\n"],
        "instar: Could not open 'a\\x1b[1m\\n': Could not open 'a\\x1b[1m\\n': No such file or directory",
    );
}

#[test]
fn image_options_stand_for_a_driver_and_a_file() {
    let folder = Folder::new();
    let options = "driver=qcow2,file.driver=file,file.filename=a";
    folder.fails(
        &["commit", "--image-opts", options],
        &format!("instar: Could not open '{options}': Could not open 'a': No such file or directory"),
    );
    folder.fails(
        &["commit", "--image-opts", "driver=nosuch,file.filename=a"],
        "instar: Could not open 'driver=nosuch,file.filename=a': Unknown driver 'nosuch'",
    );
    folder.fails(
        &["commit", "--image-opts", "driver=nbd,host=h"],
        "instar: Could not open 'driver=nbd,host=h': 'driver=nbd,host=h' sets 'host'; only names of local files are followed",
    );
}

#[test]
fn rebase_checks_its_options_in_the_known_order() {
    let folder = Folder::new();
    folder.file("plain", b"");
    usage(&["rebase", "plain"], "instar", "Must specify backing file (-b) or use unsafe mode (-u)");
    usage(&["rebase", "-F", "qcow2", "plain"], "instar", "Must specify backing file (-b) or use unsafe mode (-u)");
    folder.fails(&["rebase", "-t", "bogus", "-b", "b", "-F", "qcow2", "plain"], "instar: Invalid cache option: bogus");
    folder.fails(
        &["rebase", "-T", "bogus", "-b", "b", "-F", "qcow2", "plain"],
        "instar: Invalid source cache option: bogus",
    );
    folder.fails(&["rebase", "-f", "raw", "-b", "b", "-F", "nosuch", "plain"], "instar: Invalid format name: 'nosuch'");
    folder.fails(&["rebase", "-f", "raw", "-b", "b", "-B", "", "plain"], "instar: Invalid format name: ''");
    folder.fails(
        &["rebase", "-f", "raw", "-u", "-b", "b", "plain"],
        "instar: Could not change the backing file to 'b': backing format must be specified",
    );
    folder.fails(
        &["rebase", "-f", "raw", "-u", "plain"],
        "instar: Could not change the backing file to '(null)': Operation not supported",
    );
    let ended = folder.run(&["rebase", "-p", "-u", "a"]);
    let stderr = "instar: Could not open 'a': Could not open 'a': No such file or directory\n".to_owned();
    assert_eq!(ended, Ended { status: Some(1), stdout: "    (0.00/100%)\r\n".to_owned(), stderr });
}

#[test]
fn only_known_kinds_of_sandbox_can_be_chosen() {
    let folder = Folder::new();
    folder.file("plain", b"");
    for command in ["commit", "info", "rebase"] {
        folder.fails(
            &[command, "--sandbox", "gvisor\x1b[1m", "plain"],
            "instar: --sandbox expects 'kvm' or 'process', not 'gvisor\\x1b[1m'",
        );
        let ended = finish(folder.instar(&[command, "plain"]).env("INSTAR_SANDBOX", "KVM"));
        let stderr = "instar: INSTAR_SANDBOX expects 'kvm' or 'process', not 'KVM'\n".to_owned();
        assert_eq!(ended, Ended { status: Some(1), stdout: String::new(), stderr });
    }
}

#[test]
fn help_and_version_are_no_failures() {
    let folder = Folder::new();
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["commit", "--help"],
        &["commit", "-h", "-Z"],
        &["info", "--help"],
        &["rebase", "-h"],
    ] {
        let ended = folder.run(arguments);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ended.stdout.contains("Usage: instar"), "{arguments:?}");
    }
    assert_eq!(folder.run(&["--version"]).stdout, format!("instar {}\n", env!("CARGO_PKG_VERSION")));
}
