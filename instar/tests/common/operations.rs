//! Every operation of the program, as command lines, and a folder with what they work on.

use crate::common::Folder;
use crate::image::{CLUSTER_BYTES, qcow2};
use crate::scattered::{Backing, Disk, Numbers};

/// A folder with chains of every kind that an operation needs.
pub(crate) fn folder() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0x11, "", ""));
    folder.file("other.qcow2", &qcow2(0x12, "", ""));
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "deleted"] {
        folder.file(&format!("{name}.qcow2"), &qcow2(0x22, "base.qcow2", "qcow2"));
    }
    folder.file("broken.qcow2", b"QFI\xfb\0\0\0\x03");
    // 8 MiB in one piece, on a raw base that is too short for it: threads copy, and the base grows.
    let large = Disk::full(128);
    for name in ["large.qcow2", "slow.qcow2"] {
        folder.file(name, &large.as_ordered_qcow2(&Backing::Named("raw", "raw")));
    }
    folder.file("raw", &[7; 4096]);
    // The same on a qcow2 base, which grows cluster by cluster.
    folder.file("growing.qcow2", &large.as_ordered_qcow2(&Backing::Named("empty.qcow2", "qcow2")));
    folder.file("empty.qcow2", &Disk::scattered(128, 0, &mut Numbers(1)).as_ordered_qcow2(&Backing::None));
    let mut zeros = qcow2(0x22, "disk", "raw");
    // The second entry of the L2 table: reads as zeros.
    zeros[4 * CLUSTER_BYTES + 15] = 1;
    folder.file("zeros.qcow2", &zeros);
    folder.file("disk", &[8; 64 * CLUSTER_BYTES]);
    // Packed clusters, and files that are long enough for machines that unpack.
    let nothing = Disk::scattered(128, 0, &mut Numbers(1));
    folder.file("packed.qcow2", &nothing.as_ordered_qcow2(&Backing::Named("disk", "raw")));
    folder.file("long", &vec![3; 20 << 20]);
    for arguments in [&["rebase", "-q", "-c", "-b", ""][..], &["rebase", "-q", "-u", "-b", "long", "-F", "raw"]] {
        let ended = folder.run(&[arguments, &["--sandbox", "process", "packed.qcow2"]].concat());
        assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    }
    folder
}

/// Every operation.
pub(crate) const OPERATIONS: &[&[&str]] = &[
    &["info", "a.qcow2"],
    &["info", "broken.qcow2"],
    &["info", "--backing-chain", "a.qcow2"],
    &["plan", "commit", "large.qcow2"],
    &["plan", "commit", "zeros.qcow2"],
    &["plan", "rebase", "-c", "-b", "other.qcow2", "-F", "qcow2", "a.qcow2"],
    &["commit", "-p", "a.qcow2"],
    &["commit", "-t", "directsync", "b.qcow2"],
    &["commit", "-t", "writethrough", "--progress=json", "c.qcow2"],
    &["commit", "-d", "-r", "10M", "slow.qcow2"],
    &["commit", "large.qcow2"],
    &["commit", "growing.qcow2"],
    &["commit", "packed.qcow2"],
    &["commit", "zeros.qcow2"],
    &["commit", "--delete-overlay", "deleted.qcow2"],
    &["commit", "broken.qcow2"],
    &["rebase", "-b", "other.qcow2", "-F", "qcow2", "-p", "d.qcow2"],
    &["rebase", "-b", "", "e.qcow2"],
    &["rebase", "-u", "-b", "other.qcow2", "-F", "qcow2", "f.qcow2"],
    &["rebase", "-c", "-b", "other.qcow2", "-F", "qcow2", "g.qcow2"],
    &["rebase", "-b", "nothing.qcow2", "-F", "qcow2", "zeros.qcow2"],
    &["rebase", "--verify", "--stats", "-b", "other.qcow2", "-F", "qcow2", "h.qcow2"],
    &["commit", "--verify", "--stats", "i.qcow2"],
    &["commit", "--jobs", "2", "j.qcow2", "k.qcow2"],
];
