//! What is known of file systems by their kind.

use std::fs::File;

/// File systems that share blocks between files or copy on a server: btrfs, XFS, bcachefs, OCFS2, ZFS, NFS, CIFS, SMB2, Ceph.
const COPYING_FILE_SYSTEMS: [u64; 9] =
    [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x7461_636f, 0x2fc1_2fc1, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];
/// File systems that have no disk: tmpfs, ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The one that lets everything go through the page cache where it keeps checksums, whatever it was asked for: btrfs.
const CHECKING_FILE_SYSTEM: u64 = 0x9123_683e;

/// What a file system is like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// It has a better way to copy than through a buffer.
    pub(super) copies: bool,
    /// Files are nowhere but in the page cache.
    pub(super) is_memory: bool,
    /// There is a way past the page cache that is worth taking.
    pub(super) has_bulk: bool,
}

impl Kind {
    /// The kind of the file system that a file lies on.
    pub(super) fn of(file: &File) -> Self {
        let Ok(status) = rustix::fs::fstatfs(file) else { return Self::default() };
        // The type's width and sign differ between systems; its low 32 bits are the magic number.
        let magic = status.f_type as u64 & 0xffff_ffff;
        let is_memory = MEMORY_FILE_SYSTEMS.contains(&magic);
        let has_bulk = !is_memory && magic != CHECKING_FILE_SYSTEM;
        Self { copies: COPYING_FILE_SYSTEMS.contains(&magic), is_memory, has_bulk }
    }
}
