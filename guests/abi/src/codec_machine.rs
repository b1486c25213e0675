//! What the host and a machine that packs and unpacks have in common. Such a machine has no job, no devices and no report: batch
//! after batch the host puts a table and clusters into a slot of its memory, and takes them out in their other form. While the
//! machine is at one slot the host fills and empties the others, so that it need not wait.
//!
//! All of it lies at the start of what devices may reach, which is the heap of other programs; this program's heap begins behind
//! it.

use crate::memory::HEAP_START;

/// `Batch::task`.
pub mod task {
    /// Packed bytes become clusters.
    pub const UNPACK: u32 = 0;
    /// Clusters become packed bytes.
    pub const PACK: u32 = 1;
}

/// The number of the slot whose turn it is, of 4 bytes; written by the host before it lets the machine go on.
pub const TURN_START: u64 = HEAP_START;
/// How many slots there are: what is at work, what is being filled, and what is being written to a disk.
pub const SLOTS: u32 = 3;
/// Where the first slot lies; it starts with its table.
pub const SLOTS_START: u64 = HEAP_START + 4096;
/// Length of a slot in bytes, with its three places.
pub const SLOT_BYTES: u64 = UNPACKED_IN_SLOT + UNPACKED_BYTES;
/// Length of the table's place in bytes: a [`Batch`], then [`Entry`]s.
pub const TABLE_BYTES: u64 = 16 << 10;
/// The most clusters in one batch.
pub const MAX_ENTRIES: u32 = 256;
/// Where packed bytes lie, counted from the start of the slot.
pub const PACKED_IN_SLOT: u64 = TABLE_BYTES;
/// The most packed bytes in one batch.
pub const PACKED_BYTES: u64 = 2 << 20;
/// Where unpacked bytes lie, counted from the start of the slot.
pub const UNPACKED_IN_SLOT: u64 = PACKED_IN_SLOT + PACKED_BYTES;
/// The most unpacked bytes in one batch.
pub const UNPACKED_BYTES: u64 = 2 << 20;
/// Where the program's heap begins.
pub const CODEC_HEAP_START: u64 = HEAP_START + (14 << 20);
/// How much memory the machine has: its heap takes a decoder of a cluster of 2 MiB several times.
pub const CODEC_MEMORY_BYTES: u64 = 88 << 20;

/// Where a slot starts, in bytes. The machine has the slots below [`SLOTS`].
#[must_use]
pub const fn slot_start(slot: u32) -> u64 {
    SLOTS_START + slot as u64 * SLOT_BYTES
}

wire_struct! {
    /// What is to be done.
    pub struct Batch {
        /// How many entries follow, at most [`MAX_ENTRIES`].
        pub count: u32,
        /// How many of them are done; written by the guest. The next one cannot be.
        pub done: u32,
        /// One of [`task`].
        pub task: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// One cluster. Both places lie one behind the other, in the order of the entries.
    pub struct Entry {
        /// One of [`crate::block::codec`].
        pub codec: u32,
        /// Number of packed bytes. Of [`task::PACK`] written by the guest: 0 where they would be no fewer than the cluster's.
        pub packed_bytes: u32,
        /// Number of unpacked bytes.
        pub cluster_bytes: u32,
        /// Always zero.
        pub reserved: u32,
    }
}
