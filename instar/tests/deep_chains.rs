//! A chain of a thousand images: every command says what is wrong, soon, and changes nothing; what can be done about it works.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::time::{Duration, Instant};

use common::{Ended, Folder};
use image::qcow2;
use kvm::without_kvm;

const IMAGES: usize = 1000;
/// Within this a command has to end.
const LIMIT: Duration = Duration::from_secs(10);

/// `0` is based on `1`, and so on; all of them in a folder, with an image that has no backing file.
fn deep() -> Folder {
    let folder = Folder::new();
    for number in 0..IMAGES {
        let (backing, format) =
            if number + 1 < IMAGES { ((number + 1).to_string(), "qcow2") } else { Default::default() };
        folder.file(&number.to_string(), &qcow2(u8::try_from(number % 251).expect("below 251"), &backing, format));
    }
    folder.file("alone", &qcow2(0x77, "", ""));
    folder
}

/// Runs the program, which must fail like this and change nothing.
fn refused(folder: &Folder, arguments: &[&str], opening: &str) {
    let start = Instant::now();
    let cause = "The backing chain is longer than 200 images; commit lower ones of them first";
    folder.fails(arguments, &format!("instar: Could not open {opening}: {cause}"));
    assert!(start.elapsed() < LIMIT, "{arguments:?} took {:?}", start.elapsed());
}

#[test]
fn commit_of_a_thousand_images_is_refused_and_commits_of_lower_ones_work() {
    if without_kvm("commit_of_a_thousand_images_is_refused_and_commits_of_lower_ones_work") {
        return;
    }
    let folder = deep();
    refused(&folder, &["commit", "0"], "'0'");
    refused(&folder, &["commit", "-b", "999", "0"], "'0'");
    let start = Instant::now();
    let done = Ended { status: Some(0), stdout: "Image committed.\n".to_owned(), stderr: String::new() };
    // As many images as are followed at all.
    assert_eq!(folder.run(&["commit", "-b", "999", "800"]), done);
    assert!(start.elapsed() < LIMIT, "took {:?}", start.elapsed());
}

#[test]
fn rebase_of_a_thousand_images_is_refused_unless_nothing_is_read() {
    if without_kvm("rebase_of_a_thousand_images_is_refused_unless_nothing_is_read") {
        return;
    }
    let folder = deep();
    refused(&folder, &["rebase", "-b", "", "0"], "'0'");
    refused(&folder, &["rebase", "-b", "999", "-F", "qcow2", "0"], "'0'");
    refused(&folder, &["rebase", "-b", "0", "-F", "qcow2", "alone"], "new backing file '0'");
    let ended = folder.run(&["rebase", "-u", "-b", "999", "-F", "qcow2", "0"]);
    assert_eq!(ended, Ended { status: Some(0), stdout: String::new(), stderr: String::new() });
    let ended = folder.run(&["commit", "0"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
}
