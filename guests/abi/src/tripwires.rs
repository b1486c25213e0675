//! Pins every number of the contract at compile time.
//!
//! A guest program that was built with other numbers than its host reads the wrong bytes as offsets into somebody's image.
//! So a pin that breaks is a question, not a chore: was the change meant, do both sides still agree, and does
//! `job::ABI_VERSION` go up with it?

use crate::wire::Wire;
use crate::{block, codec_machine, job, memory, mmio, report};

/// Each line: a value, what it must be, and what goes wrong if it is changed on one side only.
macro_rules! pin {
    ($($value:expr => $pinned:expr, $why:literal;)*) => {$(
        const _: () = assert!($value == $pinned, concat!(
            stringify!($value), " is pinned to ", stringify!($pinned), ": ", $why,
            ". Do not simply update the pin: change both sides and raise ABI_VERSION."
        ));
    )*};
}

// Sizes of what crosses the border.
pin! {
    job::JobHeader::SIZE_BYTES => 24, "the device table starts right behind the header";
    job::DeviceEntry::SIZE_BYTES => 24, "rows are found by multiplying with this";
    job::CommitJob::SIZE_BYTES => 8, "the guest reads the job by these offsets";
    job::RebaseJob::SIZE_BYTES => 16 + 1024 + 16, "the guest reads the job by these offsets";
    job::SecretsHeader::SIZE_BYTES => 8, "the first secret starts right behind it";
    job::SecretEntry::SIZE_BYTES => 8, "a passphrase starts right behind it";
    report::ReportHeader::SIZE_BYTES => 8 + 6 * 4 + 1024, "the operation's report starts right behind the header";
    report::CommitReport::SIZE_BYTES => 24, "the host reads the report by these offsets";
    report::RebaseReport::SIZE_BYTES => 16, "the host reads the report by these offsets";
    job::MapJob::SIZE_BYTES => 8, "the guest reads the job by these offsets";
    report::MapReport::SIZE_BYTES => 24, "the cells start right behind it";
    report::MapCell::SIZE_BYTES => 24, "the host cuts the payload by this";
    report::InfoReport::SIZE_BYTES => 4 * 4 + 3 * 8 + 4 * 4 + 2 * 1024 + 16, "the payload starts right behind it";
    report::RepairItem::SIZE_BYTES => 32, "the host cuts the payload by this";
    report::DigestItem::SIZE_BYTES => 48, "the host cuts the payload by this";
    report::PayloadItem::SIZE_BYTES => 8, "the host walks the payload by these offsets";
    report::SnapshotItem::SIZE_BYTES => 40, "the host walks the payload by these offsets";
    report::BitmapItem::SIZE_BYTES => 16, "the host walks the payload by these offsets";
    report::VmdkItem::SIZE_BYTES => 24, "the host walks the payload by these offsets";
    report::ExtentItem::SIZE_BYTES => 32, "the host walks the payload by these offsets";
    memory::DeviceState::SIZE_BYTES => 16, "the guest finds a device's length by multiplying with this";
    mmio::Attach::SIZE_BYTES => 40, "the host reads exactly this much of guest memory";
    block::StandardHeader::SIZE_BYTES => 16, "virtio 1.2 section 5.2.6 says so";
    block::StandardRange::SIZE_BYTES => 16, "virtio 1.2 section 5.2.6 says so";
    block::VendorHeader::SIZE_BYTES => 32, "the host reads exactly this much before the records";
    block::CopyRecord::SIZE_BYTES => 32, "the host cuts the list by this";
    block::CompareRecord::SIZE_BYTES => 32, "the host cuts the list by this";
    block::UnpackRecord::SIZE_BYTES => 40, "the host cuts the list by this";
    block::PackRecord::SIZE_BYTES => 8, "the clusters start right behind it";
    block::PackedLength::SIZE_BYTES => 4, "what is packed starts behind all of them";
    codec_machine::Batch::SIZE_BYTES => 16, "the entries start right behind it";
    codec_machine::Entry::SIZE_BYTES => 16, "the guest finds entries by multiplying with this";
    block::Completion::SIZE_BYTES => 16, "the host writes exactly this much into guest memory";
}

// Numbers of the job and the report.
pin! {
    job::JOB_MAGIC => 0x424a_5241_5453_4e49, "a guest refuses a job without it";
    report::REPORT_MAGIC => 0x5052_5241_5453_4e49, "the host refuses a report without it";
    job::ABI_VERSION => 9, "both sides are built with one version and must agree exactly";
    job::MAX_DEVICES => 256, "the job's fields behind the device table move with it";
    job::SECRETS_OFFSET => 16 << 10, "the guest looks for passphrases here";
    job::MAX_NAME_BYTES => 1024, "names have this much room in job and report";
    report::MAX_TEXT_BYTES => 1024, "the error text has this much room";
    job::operation::INFO => 1, "the host says which job by this number";
    job::operation::COMMIT => 2, "the host says which job by this number";
    job::operation::REBASE => 3, "the host says which job by this number";
    job::operation::MAP => 4, "the host says which job by this number";
    job::MAX_MAP_COLUMNS => 512, "the guest refuses more";
    job::role::IMAGE => 1, "a data file taken for an image would be parsed";
    job::role::DATA => 2, "a data file taken for an image would be parsed";
    job::device_flag::CODECS => 2, "the guest must know which devices take a list of packed clusters";
    job::device_flag::WRITABLE => 1, "the guest must know which devices refuse writes";
    job::rebase_flag::UNSAFE => 1, "a safe rebase taken for an unsafe one loses data";
    job::rebase_flag::COMPRESS => 2, "the host says what the user wants by this number";
    job::rebase_flag::DIGEST_OLD => 4, "a job that was to write nothing would write";
    job::rebase_flag::COPY_ONLY => 8, "the header would change before anybody has verified what was copied";
    job::rebase_flag::DIGEST_NEW => 16, "a job that was to write nothing would write";
    job::rebase_flag::HEADER_ONLY => 32, "the work would be done twice, or the header not changed";
    job::commit_flag::COPY_ONLY => 4, "the overlay would be emptied before anybody has verified what was copied";
    job::commit_flag::COMPARE_ONLY => 8, "a job that was to write nothing would write";
    job::commit_flag::EMPTY_ONLY => 16, "the work would be done twice, or the overlay not emptied";
    job::commit_flag::DIGEST_ONLY => 32, "a job that was to write nothing would write";
    report::MAX_DIGESTS => 32768, "as many fit into the report";
    report::repair_kind::REFCOUNT => 1, "the host words what was corrected by this number";
    report::repair_kind::L1_FLAG => 2, "the host words what was corrected by this number";
    report::repair_kind::L2_FLAG => 3, "the host words what was corrected by this number";
    report::repair_kind::MORE => 4, "the host words what was corrected by this number";
    job::format::PROBE => 0, "formats are numbers on both sides";
    job::format::RAW => 1, "formats are numbers on both sides";
    job::format::QCOW2 => 2, "formats are numbers on both sides";
    job::format::VMDK => 3, "formats are numbers on both sides";
}

// The memory map. The page tables must never be mapped, the guards never have pages, and devices reach the heap alone.
pin! {
    memory::PAGE_BYTES => 4096, "the processor's page";
    memory::LARGE_PAGE_BYTES => 0x20_0000, "the processor's large page";
    memory::TABLES_START => 0x80_0000, "the host points the processor here";
    memory::PROGRAM_START => 0x20_0000, "the guests' linker script puts the program here";
    memory::PROGRAM_END => 0x80_0000, "the guests' linker script checks against this";
    memory::JOB_START => 0x81_0000, "the guest reads its job here";
    memory::JOB_BYTES => 0x1_0000, "the host writes no longer job";
    memory::DEVICES_START => 0x83_0000, "the guest reads lengths here";
    memory::DEVICES_BYTES => 0x2000, "the device table needs its room";
    memory::SHARED_START => 0x84_0000, "the host reads progress here";
    memory::SHARED_BYTES => 0x1000, "the shared words need their room";
    memory::SHARED_DONE_BYTES => 0, "the host reads progress here";
    memory::SHARED_TOTAL_BYTES => 8, "the host reads progress here";
    memory::SHARED_PANIC_TEXT => 0x400, "the host reads the last words here";
    memory::PANIC_TEXT_BYTES => 0x400, "the host reads no more than this";
    memory::REPORT_START => 0xa0_0000, "the host reads the report here";
    memory::REPORT_BYTES => 0x40_0000, "the host reads no longer report";
    memory::STACK_START => 0xf0_0000, "below it lies a guard";
    memory::STACK_END => 0x100_0000, "the processor starts with this stack";
    memory::HEAP_START => 0x120_0000, "devices reach memory from here on";
    memory::MIN_MEMORY_BYTES => 32 << 20, "a guest counts on a heap of some size";
    memory::MAX_MEMORY_BYTES => 0xc000_0000, "device pages lie above it";
    codec_machine::TURN_START => 0x120_0000, "the host says here whose turn it is";
    codec_machine::SLOTS => 3, "the host fills so many slots";
    codec_machine::SLOTS_START => 0x120_1000, "the host puts the first table here";
    codec_machine::SLOT_BYTES => 0x40_4000, "the host puts the next table so far behind it";
    codec_machine::PACKED_IN_SLOT => 0x4000, "the host puts packed bytes here";
    codec_machine::UNPACKED_IN_SLOT => 0x20_4000, "the host takes unpacked bytes from here";
    codec_machine::CODEC_HEAP_START => 0x200_0000, "what host and guest share must not be in the heap";
}

const _: () = assert!(
    codec_machine::slot_start(codec_machine::SLOTS) <= codec_machine::CODEC_HEAP_START,
    "the heap begins behind what host and guest share"
);
const _: () = assert!(
    (codec_machine::Batch::SIZE_BYTES + codec_machine::MAX_ENTRIES as usize * codec_machine::Entry::SIZE_BYTES) as u64
        <= codec_machine::TABLE_BYTES,
    "the table has room for all entries"
);
const _: () = assert!(
    block::MAX_CLUSTER_BYTES as u64 <= codec_machine::PACKED_BYTES
        && block::MAX_CLUSTER_BYTES as u64 <= codec_machine::UNPACKED_BYTES,
    "every cluster of a list fits"
);

const _: () = assert!(
    memory::PROGRAM_END <= memory::TABLES_START && memory::TABLES_END <= memory::JOB_START,
    "page tables must not lie in mapped memory"
);
const _: () = assert!(memory::PROGRAM_END < memory::JOB_START, "a guard lies behind the program");
const _: () = assert!(memory::JOB_START + memory::JOB_BYTES < memory::DEVICES_START, "a guard lies behind the job");
const _: () = assert!(
    memory::DEVICES_START + memory::DEVICES_BYTES < memory::SHARED_START,
    "a guard lies behind the device table"
);
const _: () =
    assert!(memory::SHARED_START + memory::SHARED_BYTES < memory::REPORT_START, "a guard lies behind the words");
const _: () =
    assert!(memory::REPORT_START + memory::REPORT_BYTES < memory::STACK_START, "a guard lies below the stack");
const _: () = assert!(memory::STACK_END < memory::HEAP_START, "a guard lies above the stack");
const _: () =
    assert!(memory::HEAP_START.is_multiple_of(memory::LARGE_PAGE_BYTES), "the heap is mapped with large pages");
const _: () = assert!(memory::MAX_MEMORY_BYTES <= mmio::CONTROL_START, "device pages must have no memory behind them");
const _: () = assert!(
    (job::MAX_DEVICES * memory::DeviceState::SIZE_BYTES) as u64 <= memory::DEVICES_BYTES,
    "the device table must hold every device"
);
const _: () = assert!(
    (job::JobHeader::SIZE_BYTES + job::MAX_DEVICES * job::DeviceEntry::SIZE_BYTES + job::RebaseJob::SIZE_BYTES) as u64
        <= job::SECRETS_OFFSET as u64,
    "the longest job must end before its secrets"
);
const _: () = assert!(
    (report::ReportHeader::SIZE_BYTES + report::MapReport::SIZE_BYTES) as u64
        + job::MAX_MAP_COLUMNS as u64 * (job::MAX_DEVICES * report::MapCell::SIZE_BYTES) as u64
        <= memory::REPORT_BYTES,
    "a report must hold the largest map"
);
const _: () = assert!((job::SECRETS_OFFSET as u64) < memory::JOB_BYTES, "secrets need room behind the job");

// Device registers: virtio 1.2 section 4.2.2 fixes the first ones, this contract the vendor ones.
pin! {
    mmio::CONTROL_START => 0xd000_0000, "the host maps the control page here";
    mmio::DEVICE_START => 0xd001_0000, "the host maps the first device here";
    mmio::control::DONE => 0x00, "a guest that writes elsewhere never ends";
    mmio::control::PANIC => 0x08, "a guest that writes elsewhere has no last words";
    mmio::control::BATCH_DONE => 0x18, "a machine that unpacks would not come back";
    mmio::register::MAGIC_VALUE => 0x000, "virtio 1.2 says so";
    mmio::register::VERSION => 0x004, "virtio 1.2 says so";
    mmio::register::DEVICE_ID => 0x008, "virtio 1.2 says so";
    mmio::register::VENDOR_ID => 0x00c, "virtio 1.2 says so";
    mmio::register::DEVICE_FEATURES => 0x010, "virtio 1.2 says so";
    mmio::register::DEVICE_FEATURES_SEL => 0x014, "virtio 1.2 says so";
    mmio::register::DRIVER_FEATURES => 0x020, "virtio 1.2 says so";
    mmio::register::DRIVER_FEATURES_SEL => 0x024, "virtio 1.2 says so";
    mmio::register::QUEUE_SEL => 0x030, "virtio 1.2 says so";
    mmio::register::QUEUE_NUM_MAX => 0x034, "virtio 1.2 says so";
    mmio::register::QUEUE_NUM => 0x038, "virtio 1.2 says so";
    mmio::register::QUEUE_READY => 0x044, "virtio 1.2 says so";
    mmio::register::QUEUE_NOTIFY => 0x050, "virtio 1.2 says so";
    mmio::register::INTERRUPT_STATUS => 0x060, "virtio 1.2 says so";
    mmio::register::INTERRUPT_ACK => 0x064, "virtio 1.2 says so";
    mmio::register::STATUS => 0x070, "virtio 1.2 says so";
    mmio::register::QUEUE_DESC_LOW => 0x080, "virtio 1.2 says so";
    mmio::register::QUEUE_DESC_HIGH => 0x084, "virtio 1.2 says so";
    mmio::register::QUEUE_DRIVER_LOW => 0x090, "virtio 1.2 says so";
    mmio::register::QUEUE_DRIVER_HIGH => 0x094, "virtio 1.2 says so";
    mmio::register::QUEUE_DEVICE_LOW => 0x0a0, "virtio 1.2 says so";
    mmio::register::QUEUE_DEVICE_HIGH => 0x0a4, "virtio 1.2 says so";
    mmio::register::CONFIG_GENERATION => 0x0fc, "virtio 1.2 says so";
    mmio::register::CONFIG_CAPACITY => 0x100, "virtio 1.2 says so";
    mmio::register::CONFIG_LENGTH_BYTES => 0x200, "the guest reads exact lengths here";
    mmio::register::ATTACH => 0x210, "the guest attaches to its devices here";
    mmio::MAGIC => 0x7472_6976, "virtio 1.2 says so";
    mmio::VERSION => 2, "virtio 1.2 says so";
    mmio::DEVICE_ID_BLOCK => 2, "virtio 1.2 says so";
    mmio::QUEUE_SIZE_MAX => 1024, "the host bounds a batch by it";
    mmio::feature::READ_ONLY => 5, "virtio 1.2 says so";
    mmio::feature::FLUSH => 9, "virtio 1.2 says so";
    mmio::feature::DISCARD => 13, "virtio 1.2 says so";
    mmio::feature::WRITE_ZEROES => 14, "virtio 1.2 says so";
    mmio::feature::VENDOR_REQUESTS => 23, "both sides agree on the vendor requests by this bit";
    mmio::feature::VERSION_1 => 32, "virtio 1.2 says so";
}

// Block requests: a number taken for another one turns a read into a write.
pin! {
    block::kind::IN => 0, "virtio 1.2 says so";
    block::kind::OUT => 1, "virtio 1.2 says so";
    block::kind::FLUSH => 4, "virtio 1.2 says so";
    block::kind::UNPACK => 0x8000_0009, "the vendor requests' numbers are agreed here";
    block::kind::PACK => 0x8000_000a, "the vendor requests' numbers are agreed here";
    codec_machine::task::UNPACK => 0, "a machine would do the wrong thing";
    codec_machine::task::PACK => 1, "a machine would do the wrong thing";
    block::codec::DEFLATE => 0, "bytes would be unpacked in another way than they were packed";
    block::codec::ZLIB => 1, "bytes would be unpacked in another way than they were packed";
    block::codec::ZSTD => 2, "bytes would be unpacked in another way than they were packed";
    block::MAX_CLUSTER_BYTES => 2 << 20, "a list with a longer cluster is malformed";
    block::MAX_PACK_BYTES => 4 << 20, "more clusters are malformed";
    block::MAX_UNPACK_RECORDS => 4096, "a longer list is malformed";
    block::kind::DISCARD => 11, "virtio 1.2 says so";
    block::kind::WRITE_ZEROES => 13, "virtio 1.2 says so";
    block::kind::READ_BYTES => 0x8000_0001, "the host acts on this number";
    block::kind::WRITE_BYTES => 0x8000_0002, "the host acts on this number";
    block::kind::COPY => 0x8000_0003, "the host acts on this number";
    block::kind::WRITE_ZEROES_BYTES => 0x8000_0004, "the host acts on this number";
    block::kind::DISCARD_BYTES => 0x8000_0005, "the host acts on this number";
    block::kind::RESIZE => 0x8000_0006, "the host acts on this number";
    block::kind::COMPARE => 0x8000_0007, "the host acts on this number";
    block::kind::SYNC => 0x8000_0008, "the host acts on this number";
    block::kind::VENDOR_BIT => 0x8000_0000, "the host tells the two kinds of answers apart by it";
    block::request_flag::MAY_UNMAP => 1, "virtio 1.2 says so";
    block::status::OK => 0, "virtio 1.2 says so";
    block::status::IO_ERROR => 1, "virtio 1.2 says so";
    block::status::UNSUPPORTED => 2, "virtio 1.2 says so";
    block::status::PENDING => 0xff, "an answer that was never written must not look like success";
    block::SECTOR_BYTES => 512, "virtio 1.2 says so";
    block::MAX_RECORDS => 4096, "the host bounds its memory by it and the guest cuts its lists by it";
    block::MAX_VERDICTS => 32768, "the host bounds its memory by it and the guest cuts its lists by it";
    block::ZEROS => u32::MAX, "no device may have this number";
    block::verdict::EQUAL => 0, "what differs taken for equal is lost";
    block::verdict::DIFFERS => 1, "data taken for zeros is lost";
    block::verdict::DIFFERS_FROM_ZEROS => 2, "data taken for zeros is lost";
    block::MAX_DATA_BYTES => 16 << 20, "the host refuses more and the guest cuts its requests by it";
    block::MAX_STANDARD_RANGES => 64, "the host bounds its memory by it";
}
