//! The device side of the driver's queues, for tests: byte vectors, and a naive reading of the rings.
#![expect(clippy::cast_possible_truncation, reason = "a pointer is 64 bits wide here")]
#![expect(unsafe_code, reason = "plays the device, which reads and writes the driver's memory by address")]

use std::vec::Vec;

use instar_abi::block::{
    CompareRecord, Completion, CopyRecord, PackRecord, UnpackRecord, VendorHeader, kind, request_flag, status,
};
use instar_abi::job::device_flag;
use instar_abi::memory::DeviceState;
use instar_abi::mmio::Attach;
use instar_abi::wire::Wire;

use super::Transport;
use super::ring::Descriptor;

/// A device made of bytes.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) read_only: bool,
    /// Whether it packs and unpacks.
    pub(super) codes: bool,
    /// Requests served, in order.
    pub(super) served: Vec<u32>,
    pub(super) doorbells: usize,
    /// Every request that would end behind this byte fails with ENOSPC.
    pub(super) full_at: Option<u64>,
    pub(super) attach: Option<Attach>,
    pub(super) next: u16,
}

/// Some disks. Memory below `reachable_from` counts as unreachable for devices.
#[derive(Debug, Default)]
pub(super) struct Mock {
    pub(super) disks: Vec<Disk>,
    pub(super) bounce_all: bool,
    pub(super) progress: Vec<(u64, u64)>,
}

fn get<T: Wire>(address: u64) -> T {
    let mut bytes = std::vec![0; T::SIZE_BYTES];
    let place = std::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: the driver has put the address of its own live memory here.
    unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), T::SIZE_BYTES) };
    T::get(&bytes)
}

fn fetch(address: u64, length: u32) -> Vec<u8> {
    let mut bytes = std::vec![0; length as usize];
    let place = std::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: the driver has put the address of its own live memory here.
    unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

fn store(address: u64, bytes: &[u8]) {
    let place = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the driver has put the address of its own live memory here.
    unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

impl Mock {
    fn serve(&mut self, device: usize, head: u16) -> Completion {
        let table = self.disks[device].attach.as_ref().expect("attached").descriptor_table;
        let mut chain: Vec<Descriptor> = Vec::new();
        let mut index = head;
        loop {
            let descriptor: Descriptor = get(table + 16 * u64::from(index));
            index = descriptor.next;
            let more = descriptor.flags & 1 != 0;
            chain.push(descriptor);
            if !more {
                break;
            }
        }
        let header: VendorHeader = get(chain[0].address);
        assert_eq!(chain[0].length_bytes as usize, VendorHeader::SIZE_BYTES);
        self.disks[device].served.push(header.kind);
        let data = (chain.len() >= 3).then(|| chain[1].clone());
        let room = (chain.len() == 4).then(|| chain[2].clone());
        let (errno, record) = self.act(device, &header, data.as_ref(), room.as_ref()).err().unwrap_or((0, 0));
        let status = if errno == 0 { status::OK } else { status::IO_ERROR };
        let completion = Completion { status: u32::from(status), errno, record, reserved: 0 };
        let mut bytes = [0; Completion::SIZE_BYTES];
        completion.put(&mut bytes);
        store(chain.last().expect("a chain").address, &bytes);
        completion
    }

    fn act(
        &mut self,
        device: usize,
        header: &VendorHeader,
        data: Option<&Descriptor>,
        room: Option<&Descriptor>,
    ) -> Result<(), (i32, u32)> {
        let (offset, length) = (header.offset_bytes as usize, header.length_bytes as usize);
        let writes = !matches!(header.kind, kind::READ_BYTES | kind::COMPARE | kind::PACK | kind::SYNC);
        if writes && self.disks[device].read_only {
            return Err((13, 0));
        }
        match header.kind {
            kind::READ_BYTES => {
                let mut bytes = std::vec![0; length];
                let there = self.disks[device].bytes.get(offset..).unwrap_or_default();
                let count = there.len().min(length);
                bytes[..count].copy_from_slice(&there[..count]);
                let data = data.expect("room");
                assert_eq!(data.length_bytes as usize, length);
                store(data.address, &bytes);
            }
            kind::WRITE_BYTES => {
                let data = data.expect("data");
                assert_eq!(data.length_bytes as usize, length);
                self.put(device, offset, &fetch(data.address, data.length_bytes)).map_err(|errno| (errno, 0))?;
            }
            kind::COPY => {
                let data = data.expect("records");
                let list = fetch(data.address, data.length_bytes);
                assert_eq!(list.len(), header.record_count as usize * CopyRecord::SIZE_BYTES);
                for (at, record) in (0..).zip(list.chunks_exact(CopyRecord::SIZE_BYTES)) {
                    let record = CopyRecord::get(record);
                    let source = &self.disks[record.source_device as usize].bytes;
                    let mut bytes = std::vec![0; record.length_bytes as usize];
                    let there = source.get(record.source_offset_bytes as usize..).unwrap_or_default();
                    let count = there.len().min(bytes.len());
                    bytes[..count].copy_from_slice(&there[..count]);
                    self.put(device, record.target_offset_bytes as usize, &bytes).map_err(|errno| (errno, at))?;
                }
            }
            kind::COMPARE => {
                let (data, room) = (data.expect("records"), room.expect("room for answers"));
                assert!(data.flags & 2 == 0 && room.flags & 2 != 0);
                let list = fetch(data.address, data.length_bytes);
                assert_eq!(list.len(), header.record_count as usize * CompareRecord::SIZE_BYTES);
                let mut answers = Vec::new();
                for record in list.chunks_exact(CompareRecord::SIZE_BYTES).map(CompareRecord::get) {
                    let side = |device: u32, offset: u64| {
                        let there = match self.disks.get(device as usize) {
                            Some(disk) => disk.bytes.get(offset as usize..).unwrap_or_default(),
                            None => &[],
                        };
                        let endless = there.iter().copied().chain(core::iter::repeat(0));
                        endless.take(record.length_bytes as usize).collect::<Vec<u8>>()
                    };
                    let own = side(u32::try_from(device).expect("few"), record.own_offset_bytes);
                    let other = side(record.other_device, record.other_offset_bytes);
                    let unit = record.unit_bytes as usize;
                    answers.extend(own.chunks(unit).zip(other.chunks(unit)).map(|(own, other)| {
                        let is_zero = own.iter().all(|byte| *byte == 0);
                        if own == other { 0 } else { 1 + u8::from(is_zero) }
                    }));
                }
                assert_eq!(answers.len(), room.length_bytes as usize);
                store(room.address, &answers);
            }
            // "Packed" here is one byte: what the cluster is full of.
            kind::UNPACK => {
                let data = data.expect("records");
                let list = fetch(data.address, data.length_bytes);
                assert_eq!(list.len(), header.record_count as usize * UnpackRecord::SIZE_BYTES);
                for (at, record) in (0..).zip(list.chunks_exact(UnpackRecord::SIZE_BYTES).map(UnpackRecord::get)) {
                    assert!(
                        record.skip_bytes + record.length_bytes <= record.cluster_bytes && record.packed_bytes == 1
                    );
                    let packed = self.disks[record.source_device as usize].bytes[record.source_offset_bytes as usize];
                    let bytes = std::vec![packed; record.length_bytes as usize];
                    self.put(device, record.target_offset_bytes as usize, &bytes).map_err(|errno| (errno, at))?;
                }
            }
            // As above; the first byte also says how often it stands there.
            kind::PACK => {
                let (data, room) = (data.expect("clusters"), room.expect("room for what they are packed to"));
                assert!(data.flags & 2 == 0 && room.flags & 2 != 0);
                let list = fetch(data.address, data.length_bytes);
                let (record, clusters) = list.split_at(PackRecord::SIZE_BYTES);
                let size = PackRecord::get(record).cluster_bytes as usize;
                assert_eq!(clusters.len(), header.record_count as usize * size);
                let mut answer = std::vec![0; clusters.len() / size * 4 + clusters.len()];
                assert_eq!(answer.len(), room.length_bytes as usize);
                let (lengths, places) = answer.split_at_mut(clusters.len() / size * 4);
                let clusters = clusters.chunks(size).zip(lengths.chunks_mut(4)).zip(places.chunks_mut(size));
                for ((cluster, length), place) in clusters {
                    length[0] = cluster[0];
                    place[..usize::from(cluster[0]).min(size)].fill(cluster[0]);
                }
                if self.disks[device].full_at == Some(0) {
                    return Err((5, 0));
                }
                store(room.address, &answer);
            }
            kind::WRITE_ZEROES_BYTES => {
                assert!(header.flags & !request_flag::MAY_UNMAP == 0);
                self.put(device, offset, &std::vec![0; length]).map_err(|errno| (errno, 0))?;
            }
            kind::DISCARD_BYTES => {
                let end = (offset + length).min(self.disks[device].bytes.len());
                self.disks[device].bytes[offset.min(end)..end].fill(0xdd);
            }
            kind::RESIZE => self.disks[device].bytes.resize(offset, 0),
            kind::SYNC => {}
            other => panic!("unknown request {other:#x}"),
        }
        Ok(())
    }

    fn put(&mut self, device: usize, offset: usize, bytes: &[u8]) -> Result<(), i32> {
        let disk = &mut self.disks[device];
        let end = offset + bytes.len();
        if disk.full_at.is_some_and(|full| end as u64 > full) {
            return Err(28);
        }
        if disk.bytes.len() < end {
            disk.bytes.resize(end, 0);
        }
        disk.bytes[offset..end].copy_from_slice(bytes);
        Ok(())
    }
}

impl Transport for Mock {
    fn attach_and_notify(&mut self, device: u32, attach_address: u64) {
        let attach: Attach = get(attach_address);
        assert!(attach.queue_size.is_power_of_two() && attach.descriptor_table.is_multiple_of(16));
        assert!(attach.available_ring.is_multiple_of(2) && attach.used_ring.is_multiple_of(4));
        let known = self.disks[device as usize].attach.replace(attach);
        assert!(known.is_none(), "attached twice");
        self.notify(device);
    }

    fn notify(&mut self, device: u32) {
        let device = device as usize;
        self.disks[device].doorbells += 1;
        let attach = self.disks[device].attach.clone().expect("attached");
        let available: u16 = get(attach.available_ring + 2);
        while self.disks[device].next != available {
            let slot = u64::from(self.disks[device].next) % u64::from(attach.queue_size);
            let head: u16 = get(attach.available_ring + 4 + 2 * slot);
            self.serve(device, head);
            let mut used = [0; 8];
            u32::from(head).put(&mut used);
            store(attach.used_ring + 4 + 8 * slot, &used);
            self.disks[device].next = self.disks[device].next.wrapping_add(1);
        }
        store(attach.used_ring + 2, &available.to_le_bytes());
    }

    fn device_state(&self, device: u32) -> DeviceState {
        let disk = &self.disks[device as usize];
        let mut flags = if disk.read_only { 0 } else { device_flag::WRITABLE };
        flags |= if disk.codes { device_flag::CODECS } else { 0 };
        DeviceState { length_bytes: disk.bytes.len() as u64, flags, reserved: 0 }
    }

    fn reachable(&self, _address: u64, _length_bytes: usize) -> bool {
        !self.bounce_all
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.progress.push((done_bytes, total_bytes));
    }
}
