//! Requests to a block device. The standard ones are virtio-blk's; the vendor ones count in bytes, answer with an error
//! number, and copy between devices without the data entering the guest.
//!
//! Every request is a chain of descriptors: a header that the device reads; what the request needs; and last an answer that
//! the device writes, one byte for a standard request, a [`Completion`] for a vendor request.

/// Length of a virtio-blk sector in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Request numbers.
pub mod kind {
    /// virtio-blk: read sectors.
    pub const IN: u32 = 0;
    /// virtio-blk: write sectors.
    pub const OUT: u32 = 1;
    /// virtio-blk: make everything durable; a barrier within a batch.
    pub const FLUSH: u32 = 4;
    /// virtio-blk: give sectors back.
    pub const DISCARD: u32 = 11;
    /// virtio-blk: make sectors read as zeros.
    pub const WRITE_ZEROES: u32 = 13;

    /// Vendor: read bytes into the descriptors between header and answer.
    pub const READ_BYTES: u32 = 0x8000_0001;
    /// Vendor: write the bytes of the descriptors between header and answer.
    pub const WRITE_BYTES: u32 = 0x8000_0002;
    /// Vendor: copy to this device; the descriptors between header and answer hold [`super::CopyRecord`]s.
    pub const COPY: u32 = 0x8000_0003;
    /// Vendor: make a byte range read as zeros.
    pub const WRITE_ZEROES_BYTES: u32 = 0x8000_0004;
    /// Vendor: give a byte range back.
    pub const DISCARD_BYTES: u32 = 0x8000_0005;
    /// Vendor: set the device's length; a barrier within a batch.
    pub const RESIZE: u32 = 0x8000_0006;
    /// Vendor: compare this device with others; behind the header stand [`super::CompareRecord`]s, before the answer room
    /// for one [`super::verdict`] a unit, in the order of the records.
    pub const COMPARE: u32 = 0x8000_0007;
    /// Vendor: make everything durable; a barrier within a batch.
    pub const SYNC: u32 = 0x8000_0008;
    /// Vendor: unpack compressed clusters to this device; the descriptors between header and answer hold
    /// [`super::UnpackRecord`]s. Known only where the device says so
    /// ([`crate::job::device_flag::CODECS`]).
    pub const UNPACK: u32 = 0x8000_0009;
    /// Vendor: pack clusters, whatever the device holds; the descriptors between header and answer hold a [`super::PackRecord`] and
    /// the clusters, and room for as many [`super::PackedLength`]s and for as many bytes as the clusters have. What a cluster is packed
    /// to lies there as the cluster lay. Known only where the device says so, as UNPACK.
    pub const PACK: u32 = 0x8000_000a;
    /// Bit that vendor requests have in common.
    pub const VENDOR_BIT: u32 = 0x8000_0000;
}

/// `VendorHeader::flags`, and the flags of virtio-blk's own WRITE_ZEROES ranges.
pub mod request_flag {
    /// WRITE_ZEROES may give the space back.
    pub const MAY_UNMAP: u32 = 1;
}

/// Status of a request, the first (or only) byte of its answer.
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const IO_ERROR: u8 = 1;
    /// The device does not know the request.
    pub const UNSUPPORTED: u8 = 2;
    /// What the driver puts there before the request is sent.
    pub const PENDING: u8 = 0xff;
}

/// What a COMPARE says of a unit.
pub mod verdict {
    /// Both devices have the same bytes.
    pub const EQUAL: u8 = 0;
    /// The bytes differ.
    pub const DIFFERS: u8 = 1;
    /// The bytes differ, and this device's are all zero.
    pub const DIFFERS_FROM_ZEROS: u8 = 2;
}

/// `UnpackRecord::codec` and `PackRecord::codec`.
pub mod codec {
    /// Raw deflate, as qcow2's "zlib".
    pub const DEFLATE: u32 = 0;
    /// Deflate with header and checksum (RFC 1950), as in vmdk.
    pub const ZLIB: u32 = 1;
    /// Zstandard.
    pub const ZSTD: u32 = 2;
}

/// `CompareRecord::other_device`: no device, but zeros.
pub const ZEROS: u32 = u32::MAX;
/// The most units in one COMPARE list.
pub const MAX_VERDICTS: u32 = 32768;
/// The most records in one COPY or COMPARE list.
pub const MAX_RECORDS: u32 = 4096;
/// The most packed bytes of one cluster of an UNPACK list, and the most that one unpacks to.
pub const MAX_CLUSTER_BYTES: u32 = 2 << 20;
/// The most records in one UNPACK list.
pub const MAX_UNPACK_RECORDS: u32 = 4096;
/// The most bytes of clusters in one PACK.
pub const MAX_PACK_BYTES: u32 = 4 << 20;
/// The most data bytes in one read or write request.
pub const MAX_DATA_BYTES: u64 = 16 << 20;
/// The most ranges in one of virtio-blk's DISCARD or WRITE_ZEROES requests.
pub const MAX_STANDARD_RANGES: u32 = 64;
/// The most sectors in one range of virtio-blk's DISCARD and WRITE_ZEROES requests.
pub const MAX_STANDARD_SECTORS: u32 = 1 << 30;

wire_struct! {
    /// Header of a standard request (virtio 1.2, section 5.2.6).
    pub struct StandardHeader {
        /// One of [`kind`].
        pub kind: u32,
        /// Ignored.
        pub reserved: u32,
        /// First sector, for IN and OUT.
        pub sector: u64,
    }
}

wire_struct! {
    /// One range of a standard DISCARD or WRITE_ZEROES request.
    pub struct StandardRange {
        /// First sector.
        pub sector: u64,
        /// Number of sectors.
        pub sector_count: u32,
        /// Bits of [`request_flag`].
        pub flags: u32,
    }
}

wire_struct! {
    /// Header of a vendor request.
    pub struct VendorHeader {
        /// One of [`kind`], with [`kind::VENDOR_BIT`].
        pub kind: u32,
        /// Bits of [`request_flag`].
        pub flags: u32,
        /// First byte (RESIZE: the new length; COPY, COMPARE, UNPACK, PACK and SYNC: zero).
        pub offset_bytes: u64,
        /// Number of bytes (COPY, COMPARE, UNPACK, PACK, RESIZE and SYNC: zero).
        pub length_bytes: u64,
        /// Number of records in the list (COPY, COMPARE, UNPACK), or of clusters (PACK); zero for all others.
        pub record_count: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// One piece of a COPY: the source may be the target itself if the two ranges do not overlap. What lies beyond the
    /// source's end reads as zeros.
    pub struct CopyRecord {
        /// First byte to write, on this device.
        pub target_offset_bytes: u64,
        /// First byte to read.
        pub source_offset_bytes: u64,
        /// Number of bytes.
        pub length_bytes: u64,
        /// Number of the device to read.
        pub source_device: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// One piece of a COMPARE. What lies beyond an end reads as zeros.
    pub struct CompareRecord {
        /// First byte, on this device.
        pub own_offset_bytes: u64,
        /// First byte, on the other device.
        pub other_offset_bytes: u64,
        /// Number of bytes.
        pub length_bytes: u64,
        /// Number of the other device, or [`ZEROS`].
        pub other_device: u32,
        /// Length of a unit in bytes, not zero; the last one of the piece may be shorter.
        pub unit_bytes: u32,
    }
}

wire_struct! {
    /// What the clusters of a PACK have in common.
    pub struct PackRecord {
        /// One of [`codec`].
        pub codec: u32,
        /// Length of each cluster in bytes, from 1 to [`MAX_CLUSTER_BYTES`].
        pub cluster_bytes: u32,
    }
}

wire_struct! {
    /// Number of bytes that a cluster of a PACK is packed to; 0 where it would not be shorter.
    pub struct PackedLength {
        /// Number of bytes.
        pub bytes: u32,
    }
}

wire_struct! {
    /// One piece of an UNPACK: a part of what a packed cluster unpacks to goes to this device. What lies beyond the source's end
    /// reads as zeros.
    pub struct UnpackRecord {
        /// First byte to write, on this device.
        pub target_offset_bytes: u64,
        /// First packed byte, on the other device.
        pub source_offset_bytes: u64,
        /// Number of the device that holds the packed bytes.
        pub source_device: u32,
        /// Number of packed bytes, at most [`MAX_CLUSTER_BYTES`]; the stream may end before them.
        pub packed_bytes: u32,
        /// What the cluster unpacks to, in bytes, from 1 to [`MAX_CLUSTER_BYTES`].
        pub cluster_bytes: u32,
        /// First byte of that to write.
        pub skip_bytes: u32,
        /// Number of bytes to write, not zero; the cluster ends behind them or there.
        pub length_bytes: u32,
        /// One of [`codec`].
        pub codec: u32,
    }
}

wire_struct! {
    /// Answer to a vendor request.
    pub struct Completion {
        /// One of [`status`].
        pub status: u32,
        /// The host's error number where the status says so.
        pub errno: i32,
        /// Which record of the list failed (COPY, COMPARE, UNPACK); otherwise zero.
        pub record: u32,
        /// Always zero.
        pub reserved: u32,
    }
}
