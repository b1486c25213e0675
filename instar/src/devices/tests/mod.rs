//! The devices against a driver that this file plays, with files in a temporary folder.

mod bus;
mod codecs;
mod direct;
mod executor;
mod probes;
mod rehearsal;
mod request;
mod transport;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use instar_abi::memory::{HEAP_START, MIN_MEMORY_BYTES};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::backend::Backend;
use crate::vm::{DmaMemory, GuestRam};

/// Descriptor flag: the device writes.
const WRITE: u16 = 2;
/// Descriptors of the mock queue.
const QUEUE_SIZE: u16 = 16;
/// Where tests put headers, data and answers.
const HEADER: u64 = HEAP_START + 0x1_0000;
const DATA: u64 = HEAP_START + 0x2_0000;
const ANSWER: u64 = HEAP_START + 0x4_0000;

fn ram() -> GuestRam {
    GuestRam::new(MIN_MEMORY_BYTES).expect("memory")
}

fn queue(memory: &DmaMemory) -> MockSplitQueue<'_, DmaMemory> {
    MockSplitQueue::create(memory, GuestAddress(HEAP_START), QUEUE_SIZE)
}

/// A piece of memory for a chain: address, length, and whether the device writes.
fn piece(address: u64, length: usize, writes: bool) -> RawDescriptor {
    let length = u32::try_from(length).expect("short");
    Descriptor::new(address, length, if writes { WRITE } else { 0 }, 0).into()
}

fn write_wire<T: instar_abi::wire::Wire>(memory: &DmaMemory, address: u64, value: &T) {
    let mut bytes = vec![0; T::SIZE_BYTES];
    value.put(&mut bytes);
    memory.write_slice(&bytes, GuestAddress(address)).expect("in memory");
}

fn read_bytes(memory: &DmaMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).expect("in memory");
    bytes
}

fn file(contents: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(contents).expect("written");
    file
}

/// The same file past the page cache, or nothing where its file system has no such way.
fn direct(file: &File) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    opened.inspect_err(|error| eprintln!("not run, no O_DIRECT here: {error}")).ok()
}

fn contents(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata().expect("metadata").len()).expect("short")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| seed.wrapping_add((at % 251).to_le_bytes()[0]) | 1).collect()
}

fn backend(file: &File, writable: bool) -> Backend<'_> {
    Backend::new(file, writable).expect("a regular file")
}
