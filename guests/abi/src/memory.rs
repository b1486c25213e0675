//! Where everything lies in the sandbox's memory. Addresses are physical and virtual at once: the page tables map one to
//! one, and only what is listed here. All addresses lie far below 2^47.

/// Size of a page in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// Size of a large page in bytes; the heap is mapped with these.
pub const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// The program's place, before which there is no memory, so that null pointers are caught: text (read and execute), constants (read), data (read and write). Unused pages are unmapped.
pub const PROGRAM_START: u64 = 0x20_0000;
/// End of the program's place.
pub const PROGRAM_END: u64 = 0x80_0000;

/// The page tables' place: physical memory that no page maps, so no guest code can reach it.
pub const TABLES_START: u64 = 0x80_0000;
/// End of the page tables' place.
pub const TABLES_END: u64 = 0x81_0000;

/// The job, written by the host before the start; read-only for the guest.
pub const JOB_START: u64 = 0x81_0000;
/// Length of the job's place in bytes.
pub const JOB_BYTES: u64 = 64 << 10;

/// The device table, written by the host: one [`DeviceState`] a device; read-only for the guest.
pub const DEVICES_START: u64 = 0x83_0000;
/// Length of the device table's place in bytes.
pub const DEVICES_BYTES: u64 = 8 << 10;

/// Words that the guest writes and the host reads: [`SHARED_DONE_BYTES`] and its neighbours.
pub const SHARED_START: u64 = 0x84_0000;
/// Length of the shared words' place in bytes.
pub const SHARED_BYTES: u64 = 4 << 10;
/// Offset of the progress word "bytes done" in the shared place.
pub const SHARED_DONE_BYTES: u64 = 0;
/// Offset of the progress word "bytes in total" in the shared place.
pub const SHARED_TOTAL_BYTES: u64 = 8;
/// Offset of the panic message in the shared place.
pub const SHARED_PANIC_TEXT: u64 = 0x400;
/// The longest panic message in bytes.
pub const PANIC_TEXT_BYTES: u64 = 0x400;

/// The report, written by the guest and read by the host once the guest is done.
pub const REPORT_START: u64 = 0xA0_0000;
/// Length of the report's place in bytes.
pub const REPORT_BYTES: u64 = 4 << 20;

/// Lowest address of the stack; what lies between the report and here is a guard and unmapped.
pub const STACK_START: u64 = 0xF0_0000;
/// First address above the stack, which grows downwards from here.
pub const STACK_END: u64 = 0x100_0000;

/// Start of the heap; what lies between the stack and here is a guard that no page maps. Devices read and
/// write the heap and nothing else: a request that names any other address is malformed.
pub const HEAP_START: u64 = 0x120_0000;

/// The smallest memory of a sandbox; the heap ends where the memory ends.
pub const MIN_MEMORY_BYTES: u64 = 32 << 20;
/// The memory of a sandbox where nobody says otherwise.
pub const DEFAULT_MEMORY_BYTES: u64 = 64 << 20;
/// The largest memory of a sandbox: what lies below the device pages.
pub const MAX_MEMORY_BYTES: u64 = 0xC000_0000;

wire_struct! {
    /// What the host tells of one device in the device table.
    pub struct DeviceState {
        /// Current length of the device in bytes; brought up to date at every doorbell of the device.
        pub length_bytes: u64,
        /// Bits of [`crate::job::device_flag`].
        pub flags: u32,
        /// Always zero.
        pub reserved: u32,
    }
}
