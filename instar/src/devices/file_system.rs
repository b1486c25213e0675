//! What is known of file systems by their kind.

use std::fs::File;

/// File systems that share blocks between files or copy on a server: btrfs, XFS, bcachefs, OCFS2, ZFS, NFS, CIFS, SMB2, Ceph.
const COPYING_FILE_SYSTEMS: [u64; 9] =
    [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x7461_636f, 0x2fc1_2fc1, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];

/// Whether a file lies on a file system that has a better way to copy than through a buffer.
pub(super) fn copies(file: &File) -> bool {
    // The type's width and sign differ between systems; its low 32 bits are the magic number.
    rustix::fs::fstatfs(file).is_ok_and(|status| COPYING_FILE_SYSTEMS.contains(&(status.f_type as u64 & 0xffff_ffff)))
}
