//! What the host asks of a guest program: one job in a fixed place of guest memory, written before the guest starts.

/// `JobHeader::magic`: "INSTARJB" in ASCII.
pub const JOB_MAGIC: u64 = u64::from_le_bytes(*b"INSTARJB");
/// Version of this contract; host and guest are built together and must agree exactly.
pub const ABI_VERSION: u32 = 9;
/// The most devices one job can have.
pub const MAX_DEVICES: usize = 256;
/// The longest string (backing name, new backing name) in bytes; the qcow2 format's own limit is 1023.
pub const MAX_NAME_BYTES: usize = 1024;

/// Where the secrets lie in the job's place: one [`SecretsHeader`], then the secrets one behind the other, each a
/// [`SecretEntry`] and its bytes. A job that ends before has none.
pub const SECRETS_OFFSET: usize = 16 << 10;

/// What a guest program has to do.
pub mod operation {
    /// Read one image's metadata.
    pub const INFO: u32 = 1;
    /// Merge the layers above a base into the base.
    pub const COMMIT: u32 = 2;
    /// Change what an overlay is based on.
    pub const REBASE: u32 = 3;
    /// Say what each layer of a chain holds in each part of the disk.
    pub const MAP: u32 = 4;
}

/// Image formats as numbers.
pub mod format {
    /// Not said: the guest probes.
    pub const PROBE: u32 = 0;
    /// A file whose bytes are the guest's bytes.
    pub const RAW: u32 = 1;
    /// qcow2, versions 2 and 3.
    pub const QCOW2: u32 = 2;
    /// VMware disk, all subformats.
    pub const VMDK: u32 = 3;
    /// VirtualBox disk.
    pub const VDI: u32 = 4;
    /// Hyper-V disk.
    pub const VHDX: u32 = 5;
    /// Virtual PC disk.
    pub const VPC: u32 = 6;
    /// QEMU enhanced disk.
    pub const QED: u32 = 7;
    /// Parallels disk.
    pub const PARALLELS: u32 = 8;
    /// qcow version 1.
    pub const QCOW: u32 = 9;
    /// LUKS volume.
    pub const LUKS: u32 = 10;
    /// A format that is recognised but has no number of its own here (bochs, cloop).
    pub const OTHER: u32 = 11;
}

/// What a device holds.
pub mod role {
    /// The image file of a layer.
    pub const IMAGE: u32 = 1;
    /// The external data file of a layer (qcow2), or an extent file (vmdk).
    pub const DATA: u32 = 2;
}

/// `DeviceEntry::flags`.
pub mod device_flag {
    /// The job may write to this device.
    pub const WRITABLE: u32 = 1;
    /// The device knows [`crate::block::kind::UNPACK`] and [`crate::block::kind::PACK`]. Only in the device table, which the host writes when it knows.
    pub const CODECS: u32 = 2;
}

/// `CommitJob::flags`.
pub mod commit_flag {
    /// Empty the overlay once the base is durable.
    pub const EMPTY_OVERLAY: u32 = 1;
    /// The base's format was found by probing, not recorded and not given.
    pub const BASE_FORMAT_PROBED: u32 = 2;
    /// Stop when the base is durable; the overlay is looked at as if it was to be emptied, but stays as it is.
    pub const COPY_ONLY: u32 = 4;
    /// Write nothing: compare what the base shows with what the layers above it hold.
    pub const COMPARE_ONLY: u32 = 8;
    /// Empty the overlay and write nothing else: the base holds everything.
    pub const EMPTY_ONLY: u32 = 16;
    /// Write nothing: report, as [`crate::report::DigestItem`]s, what the base shows in those of its clusters that are going to
    /// be written, beside what the layers above hold there. With [`COMPARE_ONLY`] the same is reported.
    pub const DIGEST_ONLY: u32 = 32;
}

/// `RebaseJob::flags`.
pub mod rebase_flag {
    /// Change the header alone, whatever the new backing file holds: the job has no layer but the overlay.
    pub const UNSAFE: u32 = 1;
    /// Store compressed what the overlay receives.
    pub const COMPRESS: u32 = 2;
    /// Write nothing: report what the overlay shows over the old chain, as [`crate::report::DigestItem`]s.
    pub const DIGEST_OLD: u32 = 4;
    /// Carry over what would be lost, read it back before tables show it, and stop before the header changes.
    pub const COPY_ONLY: u32 = 8;
    /// Write nothing: report what the overlay shows over the new chain.
    pub const DIGEST_NEW: u32 = 16;
    /// Change the header and nothing else: the overlay holds what it needs.
    pub const HEADER_ONLY: u32 = 32;
    /// With [`UNSAFE`], on an image of which nothing is known: change the header if the image is qcow2 and needs nothing else;
    /// otherwise write nothing and end with [`crate::report::error_kind::NOT_PLAIN`].
    pub const IF_PLAIN: u32 = 64;
}

wire_struct! {
    /// First bytes of every job.
    pub struct JobHeader {
        /// [`JOB_MAGIC`].
        pub magic: u64,
        /// [`ABI_VERSION`].
        pub abi_version: u32,
        /// One of [`operation`].
        pub operation: u32,
        /// Number of entries in the device table, at most [`MAX_DEVICES`].
        pub device_count: u32,
        /// Number of layers: layer 0 is the image named on the command line, each next one its backing image.
        pub layer_count: u32,
    }
}

wire_struct! {
    /// One row of the device table; its index is the device's number.
    pub struct DeviceEntry {
        /// One of [`role`].
        pub role: u32,
        /// Which layer the device belongs to.
        pub layer: u32,
        /// Index among the layer's data devices; 0 for its image file.
        pub index: u32,
        /// One of [`format`], for an image file: the format recorded or given, or [`format::PROBE`].
        pub format: u32,
        /// Bits of [`device_flag`].
        pub flags: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// The part of a job that only commit has.
    pub struct CommitJob {
        /// The layer to merge into; every layer above it is merged.
        pub base_layer: u32,
        /// Bits of [`commit_flag`].
        pub flags: u32,
    }
}

wire_struct! {
    /// The part of a job that only rebase has.
    ///
    /// The old chain are the layers from 1 to `old_layers`. The new chain are the layers behind those, if any, followed by
    /// the old chain's layers from `join_layer` on, if any: both chains may end in the same images, or the new backing
    /// file may be one of the old chain.
    pub struct RebaseJob {
        /// Bits of [`rebase_flag`].
        pub flags: u32,
        /// Number of layers in the old chain.
        pub old_layers: u32,
        /// The layer of the old chain in which the new chain goes on; `old_layers + 1` where it does not.
        pub join_layer: u32,
        /// Length of the new backing name in bytes, at most 1023; 0 detaches.
        pub name_length_bytes: u32,
        /// The new backing name, padded with zeros.
        pub name: [u8; MAX_NAME_BYTES],
        /// The new backing format name, at most 15 bytes, padded with zeros; empty for none.
        pub format_name: [u8; 16],
    }
}

/// The most columns of a map: with every layer that a job can have, it fits into a report.
pub const MAX_MAP_COLUMNS: u32 = 512;

wire_struct! {
    /// The part of a job that only map has.
    pub struct MapJob {
        /// Into how many parts the disk is cut, from 1 to [`MAX_MAP_COLUMNS`].
        pub columns: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// First bytes of the secrets.
    pub struct SecretsHeader {
        /// How many secrets there are.
        pub count: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// A passphrase for one layer, whose bytes follow.
    pub struct SecretEntry {
        /// The layer.
        pub layer: u32,
        /// Length of the passphrase in bytes.
        pub length_bytes: u32,
    }
}
