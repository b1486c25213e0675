//! A program without an operating system in ring 3: entry, heap, memory functions, last words, and the machine as the
//! driver's [`crate::Transport`].
//!
//! A program names its main function with [`program!`](crate::program).

mod c_heap;
mod codec_machine;
mod functions;
mod heap;
mod machine;
mod panic;

use instar_abi::codec_machine::CODEC_HEAP_START;
use instar_abi::job::{ABI_VERSION, JOB_MAGIC, JobHeader, MAX_DEVICES};
use instar_abi::memory::HEAP_START;
use instar_abi::wire::Wire;
use instar_exec::Storage;

use codec_machine::Tools;
pub use machine::{Machine, done};

use crate::VirtioStorage;

/// A guest program's work: job bytes, devices, report bytes.
pub type Main = fn(&[u8], &mut dyn Storage, &mut [u8]);

/// What the processor enters, with the size of the machine's memory: makes the heap, runs the work, says that it is done.
pub fn start(memory_bytes: u64, main: Main) -> ! {
    heap::start(HEAP_START, memory_bytes);
    let job = machine::job();
    let header = JobHeader::get(job);
    assert!(header.magic == JOB_MAGIC, "there is no job");
    assert!(header.abi_version == ABI_VERSION, "the job speaks version {} of the contract", header.abi_version);
    assert!(header.device_count as usize <= MAX_DEVICES, "the job names too many devices");
    let mut storage = VirtioStorage::new(Machine, header.device_count);
    main(job, &mut storage, machine::report());
    done()
}

/// What the processor enters in a machine that packs and unpacks: batch after batch, until the host does not go on with it.
pub fn serve_batches(memory_bytes: u64) -> ! {
    heap::start(CODEC_HEAP_START, memory_bytes);
    let mut tools = Tools::default();
    loop {
        machine::with_batch(|table, packed, clusters| codec_machine::serve(&mut tools, table, packed, clusters));
    }
}

/// Defines the entry of the program that packs and unpacks.
#[macro_export]
macro_rules! codec_machine {
    () => {
        /// Where the host starts the processor, with the size of its memory.
        #[unsafe(no_mangle)]
        extern "C" fn _start(memory_bytes: u64) -> ! {
            $crate::bare::serve_batches(memory_bytes)
        }
    };
}

/// Defines the entry of a program whose work is a function of type [`Main`](crate::bare::Main).
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// Where the host starts the processor, with the size of its memory.
        #[unsafe(no_mangle)]
        extern "C" fn _start(memory_bytes: u64) -> ! {
            $crate::bare::start(memory_bytes, $main)
        }
    };
}
