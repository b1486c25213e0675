//! Compressed clusters, in such numbers that machines beside the guest's pack and unpack them: what comes out is what went in,
//! whoever does it, and damage is told.
//!
//! The program packs the images itself, so no other one is needed; that others read what it packs is shown in `conformance`.

mod common;
#[path = "common/image.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/scattered.rs"]
mod scattered;

use std::fmt::Write as _;
use std::fs;
use std::thread;

use common::{Ended, Folder};
use kvm::without_kvm;
use scattered::{Backing, Disk, Numbers};

const CLUSTERS: usize = 400;
const CLUSTER_BYTES: usize = 64 << 10;

/// Lines like those of a log, and here and there a cluster of noise, which no packer makes shorter, or of zeros.
fn content() -> Vec<u8> {
    let mut numbers = Numbers(77);
    let mut bytes = Vec::with_capacity(CLUSTERS * CLUSTER_BYTES);
    for cluster in 0..CLUSTERS {
        let end = (cluster + 1) * CLUSTER_BYTES;
        match cluster % 16 {
            5 => bytes.resize(end, 0),
            9 => bytes.extend((0..CLUSTER_BYTES).map(|_| u8::try_from(numbers.below(256)).expect("a byte"))),
            _ => {
                let mut lines = String::new();
                while lines.len() < CLUSTER_BYTES {
                    let number = numbers.below(1 << 40);
                    writeln!(lines, "{cluster:06} session {number} closed by user {}", number % 977).expect("text");
                }
                bytes.extend(&lines.as_bytes()[..CLUSTER_BYTES]);
            }
        }
    }
    bytes
}

/// Has the image say that its clusters are packed with zstd: the header's extensions move behind the field for that.
fn with_zstd(mut image: Vec<u8>) -> Vec<u8> {
    image.copy_within(104..400, 112);
    image[79] = 8;
    image[100..104].copy_from_slice(&112u32.to_be_bytes());
    image[104..112].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    image
}

/// A folder with `content.raw`, and `packed.qcow2` that holds all of it in packed clusters, and has no backing file.
fn packed(zstd: bool) -> Folder {
    let folder = Folder::new();
    folder.file("content.raw", &content());
    let empty = |backing| Disk::scattered(CLUSTERS, 0, &mut Numbers(1)).as_ordered_qcow2(&backing);
    let image = empty(Backing::Named("content.raw", "raw"));
    folder.file("packed.qcow2", &if zstd { with_zstd(image) } else { image });
    succeeds(&folder, &["rebase", "-q", "-c", "-b", "", "packed.qcow2"]);
    let length = fs::metadata(folder.path().join("packed.qcow2")).expect("the image").len();
    assert!(length < content().len() as u64 / 2, "{length} bytes");
    folder.file("zeros.raw", &vec![0; CLUSTERS * CLUSTER_BYTES]);
    folder.file("empty.qcow2", &empty(Backing::None));
    folder
}

#[track_caller]
fn succeeds(folder: &Folder, arguments: &[&str]) -> Ended {
    let ended = folder.run(arguments);
    assert_eq!(ended.status, Some(0), "{arguments:?}: {}", ended.stderr);
    ended
}

fn counted(ended: &Ended, what: &str) -> u64 {
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
    line.expect("a count").parse().expect("a number")
}

/// On one processor alone no machine stands beside the guest's.
fn has_processors(test: &str) -> bool {
    let enough = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    if !enough {
        eprintln!("{test}: not counted who packs or unpacks, for there is one processor");
    }
    enough
}

/// Commits the packed image into a raw file of zeros, which must hold the content then.
#[track_caller]
fn commits(test: &str, zstd: bool, options: &[&str], expects_machines: bool) {
    let folder = packed(zstd);
    succeeds(&folder, &["rebase", "-q", "-u", "-b", "zeros.raw", "-F", "raw", "packed.qcow2"]);
    let ended = succeeds(&folder, &[&["commit", "--stats"], options, &["packed.qcow2"]].concat());
    assert!(fs::read(folder.path().join("zeros.raw")).expect("the base") == content(), "{options:?}");
    if !expects_machines || has_processors(test) {
        assert_eq!(counted(&ended, "unpacked bytes") > 16 << 20, expects_machines, "{options:?}: {}", ended.stderr);
    }
}

#[test]
fn machines_unpack_for_a_commit() {
    const TEST: &str = "machines_unpack_for_a_commit";
    if without_kvm(TEST) {
        return;
    }
    for zstd in [false, true] {
        commits(TEST, zstd, &[], true);
        commits(TEST, zstd, &["--verify"], true);
        commits(TEST, zstd, &["-t", "none"], true);
        commits(TEST, zstd, &["-t", "writethrough"], true);
    }
}

#[test]
fn the_guest_unpacks_alone_where_there_are_no_machines() {
    const TEST: &str = "the_guest_unpacks_alone_where_there_are_no_machines";
    commits(TEST, true, &["--sandbox", "process"], false);
    if without_kvm(TEST) {
        return;
    }
    for zstd in [false, true] {
        commits(TEST, zstd, &["-r", "1G"], false);
    }
}

#[test]
fn machines_pack_as_the_guest_does() {
    const TEST: &str = "machines_pack_as_the_guest_does";
    if without_kvm(TEST) {
        return;
    }
    for zstd in [false, true] {
        let folder = packed(zstd);
        let image =
            Disk::scattered(CLUSTERS, 0, &mut Numbers(1)).as_ordered_qcow2(&Backing::Named("content.raw", "raw"));
        let image = if zstd { with_zstd(image) } else { image };
        for options in [&["--sandbox", "process"][..], &["-r", "1G"], &["-t", "none"], &[]] {
            folder.file("again.qcow2", &image);
            let ended =
                succeeds(&folder, &[&["rebase", "--stats", "-c", "-b", ""], options, &["again.qcow2"]].concat());
            let read = |name: &str| fs::read(folder.path().join(name)).expect("an image");
            assert!(read("again.qcow2") == read("packed.qcow2"), "{options:?}");
            let expects_machines = !matches!(options, ["--sandbox" | "-r", ..]);
            if !expects_machines || has_processors(TEST) {
                // All but the clusters of zeros.
                assert_eq!(
                    counted(&ended, "packed bytes") > 20 << 20,
                    expects_machines,
                    "{options:?}: {}",
                    ended.stderr
                );
            }
        }
    }
}

#[test]
fn packed_clusters_of_a_backing_file_come_into_the_overlay() {
    if without_kvm("packed_clusters_of_a_backing_file_come_into_the_overlay") {
        return;
    }
    for zstd in [false, true] {
        let folder = packed(zstd);
        succeeds(&folder, &["rebase", "-q", "-u", "-b", "packed.qcow2", "-F", "qcow2", "empty.qcow2"]);
        let ended = succeeds(&folder, &["rebase", "--stats", "-b", "", "empty.qcow2"]);
        // Too few bytes for machines, so the guest unpacks; it has no need to unpack twice, to see that there is something and to copy it.
        let length = fs::metadata(folder.path().join("packed.qcow2")).expect("the image").len();
        let read = counted(&ended, "read bytes");
        assert!((length / 2..length * 3 / 2).contains(&read), "{length}: {}", ended.stderr);
        succeeds(&folder, &["rebase", "-q", "-u", "-b", "zeros.raw", "-F", "raw", "empty.qcow2"]);
        succeeds(&folder, &["commit", "-q", "empty.qcow2"]);
        assert!(fs::read(folder.path().join("zeros.raw")).expect("the base") == content());
    }
}

#[test]
fn damage_is_told_and_loses_nothing() {
    if without_kvm("damage_is_told_and_loses_nothing") {
        return;
    }
    for zstd in [false, true] {
        let folder = packed(zstd);
        succeeds(&folder, &["rebase", "-q", "-u", "-b", "zeros.raw", "-F", "raw", "packed.qcow2"]);
        let path = folder.path().join("packed.qcow2");
        let mut image = fs::read(&path).expect("the image");
        // Clusters of noise are as they were; among so many places there are packed ones.
        for start in (image.len() / 4..image.len() / 2).step_by(CLUSTER_BYTES / 4) {
            image[start..start + 64].fill(0xff);
        }
        fs::write(&path, &image).expect("the image");
        let ended = folder.run(&["commit", "packed.qcow2"]);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), ""));
        assert!(ended.stderr.contains("packed.qcow2"), "{}", ended.stderr);
        assert!(ended.stderr.contains("cannot be unpacked"), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(fs::read(&path).expect("the image") == image, "the overlay has changed");
    }
}
