//! What a guest says to the host: registers, rings, requests, and the report at the end. All of it is hostile.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Once;

use arbitrary::{Arbitrary, Unstructured};
use instar::cli::info::ImageInfo;
use instar::devices::{Backend, Bus};
use instar::vm::{GuestRam, MmioBus};
use instar_abi::memory::{HEAP_START, MIN_MEMORY_BYTES};
use instar_abi::mmio::device_page;
use instar_abi::report::InfoReport;
use instar_abi::wire::Wire;
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, setrlimit};
use vm_memory::{Bytes, GuestAddress};

/// The most steps of one run.
const MAX_STEPS: usize = 64;
/// No file becomes longer: more is refused by the system, as on a full disk.
const FILE_BYTES_MAX: u64 = 4 << 20;
const READ_ONLY_BYTES: &[u8] = &[0x77; 10_000];

#[derive(Arbitrary, Debug)]
enum Step {
    Memory { at: u16, bytes: Vec<u8> },
    Write { device: u8, register: u16, value: u32 },
    WriteLong { device: u8, register: u16, value: u64 },
    Read { device: u8, register: u16 },
}

pub(super) fn virtqueue(bytes: &[u8]) {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(|| {
        let limit = Rlimit { current: Some(FILE_BYTES_MAX), maximum: Some(FILE_BYTES_MAX) };
        setrlimit(Resource::Fsize, limit).expect("a limit");
    });
    let mut u = Unstructured::new(bytes);
    let ram = GuestRam::new(MIN_MEMORY_BYTES).expect("memory");
    let (read_only, writable) = (file(READ_ONLY_BYTES), file(&[0x33; 5000]));
    let backends =
        vec![Backend::new(&read_only, false).expect("a file"), Backend::new(&writable, true).expect("a file")];
    let mut bus = Bus::new(backends).expect("a bus");
    bus.publish(&ram).expect("published");
    for _ in 0..MAX_STEPS {
        let Ok(step) = u.arbitrary::<Step>() else { break };
        let page = |device: u8, register: u16| device_page(u32::from(device % 3)) + u64::from(register % 0x400);
        let ends = match step {
            Step::Memory { at, bytes } => {
                let _ = ram.dma().write_slice(&bytes, GuestAddress(HEAP_START + u64::from(at)));
                false
            }
            Step::Write { device, register, value } => {
                bus.write(&ram, page(device, register), &value.to_le_bytes()).is_err()
            }
            Step::WriteLong { device, register, value } => {
                bus.write(&ram, page(device, register), &value.to_le_bytes()).is_err()
            }
            Step::Read { device, register } => bus.read(&ram, page(device, register), &mut [0; 4]).is_err(),
        };
        if ends || u.is_empty() {
            break;
        }
    }
    drop(bus);
    let mut now = vec![0; READ_ONLY_BYTES.len()];
    read_only.read_exact_at(&mut now, 0).expect("as long as before");
    assert_eq!(now, READ_ONLY_BYTES, "a read-only device was written to");
}

fn file(contents: &[u8]) -> File {
    let file = File::from(rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(contents, 0).expect("written");
    file
}

pub(super) fn report(bytes: &[u8]) {
    let mut body = bytes.to_vec();
    body.resize(body.len().max(InfoReport::SIZE_BYTES), 0);
    let (operation, payload) = body.split_at(InfoReport::SIZE_BYTES);
    let _ = ImageInfo::decode(operation, payload);
}
