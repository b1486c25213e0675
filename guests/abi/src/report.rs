//! What a guest program answers: one report in a fixed place of guest memory, read by the host after the guest is done.
//!
//! The host treats all of it as hostile: numbers are range-checked, lengths bounded, strings escaped for the terminal.

use crate::job::MAX_NAME_BYTES;

/// `ReportHeader::magic`: "INSTARRP" in ASCII; anything else means that there is no report.
pub const REPORT_MAGIC: u64 = u64::from_le_bytes(*b"INSTARRP");
/// The longest error text in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// `ReportHeader::outcome`.
pub mod outcome {
    /// The job was done.
    pub const DONE: u32 = 0;
    /// The job failed; the error fields say how.
    pub const FAILED: u32 = 1;
}

/// `ReportHeader::error_kind`: which sentence the host puts around the text.
pub mod error_kind {
    /// No error.
    pub const NONE: u32 = 0;
    /// Layer `error_layer` cannot be opened as an image: "Could not open 'LAYER': TEXT".
    pub const OPEN: u32 = 1;
    /// Layer `error_layer` has broken metadata; nothing was written: "'LAYER': TEXT".
    pub const CORRUPT: u32 = 2;
    /// The copying failed: "Block job failed: TEXT", or the system's text for `errno` where TEXT is empty. For rebase, the
    /// header cannot name the new backing file: "Could not change the backing file to 'NAME': TEXT".
    pub const JOB: u32 = 3;
    /// A device request failed with `errno` while layer `error_layer` was read or written.
    pub const STORAGE: u32 = 4;
    /// The job asks for something that this version does not do: TEXT is the whole sentence.
    pub const UNSUPPORTED: u32 = 5;
    /// A finding that the user must read as it is: TEXT is the whole sentence.
    pub const REFUSED: u32 = 6;
    /// The guest's own mistake (a panic, no memory): "the sandbox stopped: TEXT".
    pub const INTERNAL: u32 = 7;
    /// The image is not one on which the job could be done without knowing more; nothing was written.
    pub const NOT_PLAIN: u32 = 8;
}

/// `InfoReport::flags`.
pub mod info_flag {
    /// The image is marked dirty.
    pub const DIRTY: u32 = 1;
    /// The image is marked corrupt.
    pub const CORRUPT: u32 = 1 << 1;
    /// The image uses lazy refcounts.
    pub const LAZY_REFCOUNTS: u32 = 1 << 2;
    /// The image has extended L2 entries.
    pub const EXTENDED_L2: u32 = 1 << 3;
    /// Compression type zstd (otherwise zlib).
    pub const ZSTD: u32 = 1 << 4;
    /// The image has an external data file.
    pub const DATA_FILE: u32 = 1 << 5;
    /// The external data file is raw.
    pub const DATA_FILE_RAW: u32 = 1 << 6;
    /// The image is encrypted with LUKS.
    pub const ENCRYPT_LUKS: u32 = 1 << 7;
    /// The image is encrypted with the old AES scheme.
    pub const ENCRYPT_AES: u32 = 1 << 8;
    /// A backing name is recorded.
    pub const HAS_BACKING: u32 = 1 << 9;
    /// A backing format is recorded.
    pub const HAS_BACKING_FORMAT: u32 = 1 << 10;
    /// A data file name is recorded.
    pub const HAS_DATA_FILE_NAME: u32 = 1 << 11;
    /// The format was found by probing.
    pub const PROBED: u32 = 1 << 12;
}

wire_struct! {
    /// First bytes of every report.
    pub struct ReportHeader {
        /// [`REPORT_MAGIC`].
        pub magic: u64,
        /// One of [`outcome`].
        pub outcome: u32,
        /// One of [`error_kind`].
        pub error_kind: u32,
        /// Which layer the error is about.
        pub error_layer: u32,
        /// The system's error number behind it, or 0. Of [`error_kind::OPEN`]: `ENOTSUP` for an image that asks for what is not
        /// supported, `EKEYREJECTED` for a passphrase that is missing or wrong.
        pub errno: i32,
        /// Length of `text` in bytes.
        pub text_length_bytes: u32,
        /// Length in bytes of the variable part behind the operation's own report.
        pub payload_length_bytes: u32,
        /// The error text, UTF-8, padded with zeros.
        pub text: [u8; MAX_TEXT_BYTES],
    }
}

wire_struct! {
    /// What commit reports.
    pub struct CommitReport {
        /// Clusters of the base that were written, zeroed or deallocated.
        pub clusters_committed: u64,
        /// Bytes of guest data that the base received.
        pub bytes_committed: u64,
        /// Clusters that the overlay gave up.
        pub overlay_clusters_cleared: u64,
    }
}

wire_struct! {
    /// What rebase reports.
    pub struct RebaseReport {
        /// Clusters of the overlay that received data or zeros.
        pub clusters_copied: u64,
        /// Bytes of the disk that the overlay received, zeros included.
        pub bytes_copied: u64,
    }
}

wire_struct! {
    /// What map reports. The payload behind it holds [`MapCell`]s: all columns of layer 0, then those of layer 1, and so on.
    pub struct MapReport {
        /// Size of the largest layer's disk.
        pub size_bytes: u64,
        /// How much of the disk a column stands for; the last one may stand for less.
        pub column_bytes: u64,
        /// Number of columns, at most as many as were asked for; 0 for an empty disk.
        pub column_count: u32,
        /// Number of layers.
        pub layer_count: u32,
    }
}

wire_struct! {
    /// What one layer holds in one part of the disk. What is missing to the column's length the layer does not hold.
    pub struct MapCell {
        /// Bytes that are stored.
        pub data_bytes: u64,
        /// Bytes of the disk that are stored compressed.
        pub compressed_bytes: u64,
        /// Bytes that read as zeros and are not stored.
        pub zero_bytes: u64,
    }
}

/// `RepairItem::kind`.
pub mod repair_kind {
    /// A refcount: `subject` is the host cluster, `recorded` its refcount, `references` what it should be.
    pub const REFCOUNT: u32 = 1;
    /// The flag of an L1 entry that says whether its table is shared: `subject` is the entry's index, `recorded` the entry,
    /// `references` the refcount.
    pub const L1_FLAG: u32 = 2;
    /// The same flag of an L2 entry, which is `recorded`.
    pub const L2_FLAG: u32 = 3;
    /// `subject` more were corrected, which there is no room to list.
    pub const MORE: u32 = 4;
}

wire_struct! {
    /// Something that was corrected in an image that was not closed properly. The payload of a commit or rebase, be it
    /// done or failed, is a sequence of these.
    pub struct RepairItem {
        /// The image's layer.
        pub layer: u32,
        /// One of [`repair_kind`].
        pub kind: u32,
        /// What was corrected.
        pub subject: u64,
        /// What was found.
        pub recorded: u64,
        /// What refers to it.
        pub references: u64,
    }
}

/// The most [`DigestItem`]s in a report.
pub const MAX_DIGESTS: u64 = 32768;

wire_struct! {
    /// What a part of the disk shows. The payload of a job that was asked for digests is a sequence of these, in the order of
    /// the disk, for all parts in which the job could change something that it should not.
    pub struct DigestItem {
        /// First byte of the part.
        pub guest_offset: u64,
        /// Length of the part in bytes.
        pub length_bytes: u64,
        /// SHA-256 of the blocks of 4096 bytes that are not all zero, each behind its offset.
        pub digest: [u8; 32],
    }
}

wire_struct! {
    /// What info reports of one image; the payload behind it holds a sequence of [`PayloadItem`]s.
    pub struct InfoReport {
        /// One of [`crate::job::format`].
        pub format: u32,
        /// Bits of [`info_flag`].
        pub flags: u32,
        /// Version of the format (qcow2: 2 or 3).
        pub version: u32,
        /// Width of a refcount in bits (qcow2).
        pub refcount_bits: u32,
        /// Size of the disk that a guest sees.
        pub virtual_size_bytes: u64,
        /// Cluster size; 0 where the format has none.
        pub cluster_size_bytes: u64,
        /// Number of entries in the active L1 table (qcow2), for sizing the next sandbox.
        pub l1_entries: u64,
        /// Length of `backing_name` in bytes.
        pub backing_name_length_bytes: u32,
        /// Length of `backing_format` in bytes.
        pub backing_format_length_bytes: u32,
        /// Length of `data_file_name` in bytes.
        pub data_file_name_length_bytes: u32,
        /// Always zero.
        pub reserved: u32,
        /// The backing name as recorded.
        pub backing_name: [u8; MAX_NAME_BYTES],
        /// The data file name as recorded.
        pub data_file_name: [u8; MAX_NAME_BYTES],
        /// The backing format name as recorded.
        pub backing_format: [u8; 16],
    }
}

/// `PayloadItem::kind`.
pub mod payload_kind {
    /// A snapshot: [`super::SnapshotItem`], then its id, then its name.
    pub const SNAPSHOT: u32 = 1;
    /// A bitmap: [`super::BitmapItem`], then its name.
    pub const BITMAP: u32 = 2;
    /// A LUKS header: [`super::LuksItem`], then [`super::LUKS_SLOTS`] of [`super::LuksSlotItem`].
    pub const LUKS: u32 = 3;
    /// A vmdk extent: [`super::ExtentItem`], then its file's name as recorded; in the order of the descriptor, behind the
    /// item for the image.
    pub const EXTENT: u32 = 4;
    /// A vmdk image: [`super::VmdkItem`], then its type (`createType`).
    pub const VMDK: u32 = 5;
}

wire_struct! {
    /// Head of one item in the payload; `length_bytes` of data follow.
    pub struct PayloadItem {
        /// One of [`payload_kind`].
        pub kind: u32,
        /// Length of what follows.
        pub length_bytes: u32,
    }
}

wire_struct! {
    /// An internal snapshot.
    pub struct SnapshotItem {
        /// Seconds since the epoch.
        pub date_seconds: u32,
        /// And nanoseconds.
        pub date_nanoseconds: u32,
        /// Guest time since start, in nanoseconds.
        pub vm_clock_nanoseconds: u64,
        /// Length of the saved machine state.
        pub vm_state_size_bytes: u64,
        /// Instruction count; all ones where there is none.
        pub icount: u64,
        /// Length of the id.
        pub id_length_bytes: u32,
        /// Length of the name.
        pub name_length_bytes: u32,
    }
}

wire_struct! {
    /// A persistent bitmap.
    pub struct BitmapItem {
        /// Bytes of the disk that one bit stands for.
        pub granularity_bytes: u64,
        /// Bit 0: in use; bit 1: enabled (auto).
        pub flags: u32,
        /// Length of the name.
        pub name_length_bytes: u32,
    }
}

wire_struct! {
    /// A vmdk image.
    pub struct VmdkItem {
        /// The image's content identifier; all ones where none is recorded.
        pub cid: u32,
        /// The identifier that the parent must have; all ones without parent.
        pub parent_cid: u32,
        /// Number of [`ExtentItem`]s that follow, at least 1.
        pub extent_count: u32,
        /// Number of files besides the image's own: data devices 0 to this number, exclusive.
        pub file_count: u32,
        /// Length of the type in bytes.
        pub create_type_length_bytes: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

/// `ExtentItem::kind`.
pub mod extent_kind {
    /// The image's own file is the extent.
    pub const OWN: u32 = 0;
    /// Bytes of a file: "FLAT".
    pub const FLAT: u32 = 1;
    /// The same on VMFS: "VMFS".
    pub const VMFS: u32 = 2;
    /// A sparse file: "SPARSE".
    pub const SPARSE: u32 = 3;
    /// A sparse file of ESX: "VMFSSPARSE".
    pub const VMFS_SPARSE: u32 = 4;
    /// Another sparse file of ESX: "SESPARSE".
    pub const SE_SPARSE: u32 = 5;
}

/// `ExtentItem::flags`.
pub mod extent_flag {
    /// The extent's grains are compressed.
    pub const COMPRESSED: u32 = 1;
    /// Sizes and compression are those of the extent's file. Without this flag the file was no device of the job, and the
    /// size is the one that the descriptor gives.
    pub const INSPECTED: u32 = 1 << 1;
}

wire_struct! {
    /// A vmdk extent.
    pub struct ExtentItem {
        /// One of [`extent_kind`].
        pub kind: u32,
        /// Bits of [`extent_flag`].
        pub flags: u32,
        /// Index of the data device that holds the file; several extents may lie in one file. All ones for the image's own.
        pub data_index: u32,
        /// Length of the file's name in bytes; 0 for the image's own.
        pub name_length_bytes: u32,
        /// How much of the disk the extent is.
        pub virtual_size_bytes: u64,
        /// Length of a grain; 0 where there are none, or not inspected.
        pub cluster_size_bytes: u64,
    }
}

/// Number of key slots in a LUKS header.
pub const LUKS_SLOTS: usize = 8;

wire_struct! {
    /// A LUKS header. Names are ASCII, padded with zeros.
    pub struct LuksItem {
        /// Where the encrypted data begins, relative to the header.
        pub payload_offset_bytes: u64,
        /// Iterations for the digest of the master key.
        pub master_key_iterations: u32,
        /// Always zero.
        pub reserved: u32,
        /// Cipher and key length, such as `aes-256`.
        pub cipher_alg: [u8; 16],
        /// Mode, such as `xts`.
        pub cipher_mode: [u8; 16],
        /// Generator of initialisation vectors, such as `plain64`.
        pub ivgen_alg: [u8; 16],
        /// Its hash, such as `sha256`; empty where it has none.
        pub ivgen_hash_alg: [u8; 16],
        /// Hash for keys and digests, such as `sha256`.
        pub hash_alg: [u8; 16],
        /// The volume's UUID as recorded.
        pub uuid: [u8; 40],
    }
}

wire_struct! {
    /// A key slot of a LUKS header.
    pub struct LuksSlotItem {
        /// 1 if the slot holds a key, otherwise 0.
        pub is_active: u32,
        /// Iterations for the key.
        pub iterations: u32,
        /// Anti-forensic stripes.
        pub stripes: u32,
        /// Always zero.
        pub reserved: u32,
        /// Where the key material lies, relative to the header.
        pub key_offset_bytes: u64,
    }
}
