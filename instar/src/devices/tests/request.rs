//! What is read out of descriptor chains, and what is refused.

use instar_abi::block::{
    CompareRecord, CopyRecord, PackRecord, StandardHeader, StandardRange, UnpackRecord, VendorHeader, kind,
};
use instar_abi::memory::{HEAP_START, MIN_MEMORY_BYTES};
use instar_abi::wire::Wire;
use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::super::chain::{Malformed, Span};
use super::super::pack::Clusters;
use super::super::request::{Action, Answer, Range, Request, parse};
use super::{ANSWER, DATA, HEADER, QUEUE_SIZE, piece, queue, ram, write_wire};
use crate::vm::DmaMemory;

fn parse_chain(memory: &DmaMemory, chain: &[RawDescriptor]) -> Result<Request, Malformed> {
    let queue = queue(memory);
    queue.build_desc_chain(chain).expect("a chain");
    parse(memory, queue.desc_table_addr(), QUEUE_SIZE, 0)
}

fn vendor(kind: u32, offset_bytes: u64, length_bytes: u64, record_count: u32) -> VendorHeader {
    VendorHeader { kind, flags: 0, offset_bytes, length_bytes, record_count, reserved: 0 }
}

fn parse_vendor(header: &VendorHeader, between: &[RawDescriptor]) -> Result<Request, Malformed> {
    let ram = ram();
    write_wire(ram.dma(), HEADER, header);
    let mut chain = vec![piece(HEADER, VendorHeader::SIZE_BYTES, false)];
    chain.extend_from_slice(between);
    chain.push(piece(ANSWER, 16, true));
    parse_chain(ram.dma(), &chain)
}

fn span(address: u64, length: usize) -> Span {
    Span { address: GuestAddress(address), length }
}

#[test]
fn vendor_read_names_its_room() {
    let request =
        parse_vendor(&vendor(kind::READ_BYTES, 77, 100, 0), &[piece(DATA, 60, true), piece(DATA + 500, 40, true)])
            .expect("good form");
    let spans = vec![span(DATA, 60), span(DATA + 500, 40)];
    assert_eq!(request.action, Action::Read { offset: 77, spans, exact: false });
    assert_eq!(request.answer, Answer::Completion(GuestAddress(ANSWER)));
    assert_eq!(request.writable_bytes, 116);
}

#[test]
fn answer_may_share_a_descriptor_with_data() {
    let ram = ram();
    write_wire(ram.dma(), HEADER, &vendor(kind::READ_BYTES, 0, 100, 0));
    let chain = [piece(HEADER, 32, false), piece(DATA, 116, true)];
    let request = parse_chain(ram.dma(), &chain).expect("good form");
    assert_eq!(request.action, Action::Read { offset: 0, spans: vec![span(DATA, 100)], exact: false });
    assert_eq!(request.answer, Answer::Completion(GuestAddress(DATA + 100)));
}

#[test]
fn header_and_data_may_share_a_descriptor() {
    let ram = ram();
    write_wire(ram.dma(), HEADER, &vendor(kind::WRITE_BYTES, 5, 8, 0));
    let chain = [piece(HEADER, 40, false), piece(ANSWER, 16, true)];
    let request = parse_chain(ram.dma(), &chain).expect("good form");
    assert_eq!(request.action, Action::Write { offset: 5, spans: vec![span(HEADER + 32, 8)], exact: false });
}

#[test]
fn header_may_be_split_over_descriptors() {
    let ram = ram();
    write_wire(ram.dma(), HEADER, &vendor(kind::RESIZE, 4096, 0, 0));
    let mut chain: Vec<RawDescriptor> = (0..8).map(|at| piece(HEADER + 4 * at, 4, false)).collect();
    chain.push(piece(ANSWER, 16, true));
    assert_eq!(parse_chain(ram.dma(), &chain).expect("good form").action, Action::Resize(4096));
}

#[test]
fn copy_list_is_read_whole() {
    let ram = ram();
    let records: Vec<CopyRecord> = (0..40)
        .map(|at| CopyRecord {
            target_offset_bytes: at,
            source_offset_bytes: at * 2,
            length_bytes: at * 3,
            source_device: 1,
            reserved: 0,
        })
        .collect();
    for (at, record) in (0..).zip(&records) {
        write_wire(ram.dma(), DATA + at * CopyRecord::SIZE_BYTES as u64, record);
    }
    write_wire(ram.dma(), HEADER, &vendor(kind::COPY, 0, 0, 40));
    let list = [piece(DATA, 100, false), piece(DATA + 100, 40 * CopyRecord::SIZE_BYTES - 100, false)];
    let chain = [piece(HEADER, 32, false), list[0], list[1], piece(ANSWER, 16, true)];
    assert_eq!(parse_chain(ram.dma(), &chain).expect("good form").action, Action::Copy(records));
}

#[test]
fn compare_needs_a_byte_for_each_unit() {
    let parse = |unit_bytes, length_bytes, room: &[RawDescriptor]| {
        let ram = ram();
        let record =
            CompareRecord { own_offset_bytes: 0, other_offset_bytes: 0, length_bytes, other_device: 0, unit_bytes };
        write_wire(ram.dma(), DATA, &record);
        write_wire(ram.dma(), HEADER, &vendor(kind::COMPARE, 0, 0, 1));
        let mut chain = vec![piece(HEADER, 32, false), piece(DATA, CompareRecord::SIZE_BYTES, false)];
        chain.extend(room);
        chain.push(piece(ANSWER, 16, true));
        parse_chain(ram.dma(), &chain)
    };
    let room = |length| piece(DATA + 0x1000, length, true);
    let request = parse(512, 1025, &[room(3)]).expect("good form");
    assert!(
        matches!(request.action, Action::Compare(records, place) if records.len() == 1 && place.0 == DATA + 0x1000)
    );
    assert!(parse(512, 1025, &[room(2)]).is_err());
    assert!(parse(512, 1025, &[room(4)]).is_err());
    assert!(parse(512, 1025, &[room(2), piece(DATA + 0x1100, 1, true)]).is_err());
    assert!(parse(512, 1025, &[]).is_err());
    assert!(parse(0, 1025, &[room(3)]).is_err());
    assert!(parse(1, u64::MAX, &[room(3)]).is_err());
    assert!(parse(1, 32769, &[room(32769)]).is_err());
}

#[test]
fn packed_clusters_must_be_of_a_size_that_machines_hold() {
    let good = UnpackRecord {
        target_offset_bytes: u64::MAX,
        source_offset_bytes: u64::MAX,
        source_device: u32::MAX,
        packed_bytes: 2 << 20,
        cluster_bytes: 2 << 20,
        skip_bytes: 1,
        length_bytes: (2 << 20) - 1,
        codec: u32::MAX,
    };
    let parse = |count: u32, record: &UnpackRecord| {
        let ram = ram();
        write_wire(ram.dma(), HEADER, &vendor(kind::UNPACK, 0, 0, count));
        // Behind all that the others use.
        let start = ANSWER + 0x1000;
        for place in 0..u64::from(count) {
            write_wire(ram.dma(), start + place * UnpackRecord::SIZE_BYTES as u64, record);
        }
        let list = piece(start, UnpackRecord::SIZE_BYTES * count as usize, false);
        parse_chain(ram.dma(), &[piece(HEADER, 32, false), list, piece(ANSWER, 16, true)])
    };
    let action = parse(4096, &good).expect("good form").action;
    assert!(matches!(action, Action::Unpack(records) if records.len() == 4096 && records[4095] == good));
    assert!(parse(4097, &good).is_err());
    for bad in [
        UnpackRecord { packed_bytes: (2 << 20) + 1, ..good.clone() },
        UnpackRecord { cluster_bytes: (2 << 20) + 1, ..good.clone() },
        UnpackRecord { cluster_bytes: 0, skip_bytes: 0, length_bytes: 0, ..good.clone() },
        UnpackRecord { skip_bytes: 2, ..good.clone() },
        UnpackRecord { skip_bytes: u32::MAX, ..good.clone() },
        UnpackRecord { length_bytes: 0, ..good.clone() },
    ] {
        assert!(parse(1, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn clusters_to_pack_must_be_of_a_size_that_machines_hold() {
    let parse = |cluster_bytes: u32, count: u32, bytes: usize, room: usize| {
        let ram = ram();
        write_wire(ram.dma(), HEADER, &vendor(kind::PACK, 0, 0, count));
        write_wire(ram.dma(), DATA, &PackRecord { codec: u32::MAX, cluster_bytes });
        let list = piece(DATA, PackRecord::SIZE_BYTES + bytes, false);
        // The answer lies behind the room, in the same piece.
        parse_chain(ram.dma(), &[piece(HEADER, 32, false), list, piece(ANSWER, room + 16, true)])
    };
    let action = parse(512, 3, 1536, 1548).expect("good form").action;
    let [bytes, lengths, places] = [DATA + 8, ANSWER, ANSWER + 12].map(GuestAddress);
    assert_eq!(
        action,
        Action::Pack(Clusters { codec: u32::MAX, cluster_bytes: 512, count: 3, bytes, lengths, places })
    );
    assert!(parse(2 << 20, 2, 4 << 20, (4 << 20) + 8).is_ok());
    for (cluster_bytes, count, bytes, room) in [
        (512, 0, 0, 0),
        (0, 1, 0, 4),
        (512, 3, 1535, 1548),
        (512, 3, 1537, 1548),
        (512, 3, 1536, 1547),
        (512, 3, 1536, 1549),
        ((2 << 20) + 1, 1, (2 << 20) + 1, (2 << 20) + 5),
        (2 << 20, 3, 6 << 20, (6 << 20) + 12),
        (u32::MAX, u32::MAX, 1, 1),
        (512, 4097, 512 * 4097, 516 * 4097),
    ] {
        assert!(parse(cluster_bytes, count, bytes, room).is_err(), "{cluster_bytes} {count} {bytes} {room}");
    }
}

#[test]
fn standard_requests_count_in_sectors() {
    let ram = ram();
    let parse_standard = |kind, sector, between: &[RawDescriptor]| {
        write_wire(ram.dma(), HEADER, &StandardHeader { kind, reserved: 0, sector });
        let mut chain = vec![piece(HEADER, StandardHeader::SIZE_BYTES, false)];
        chain.extend_from_slice(between);
        chain.push(piece(ANSWER, 1, true));
        parse_chain(ram.dma(), &chain)
    };
    let read = parse_standard(kind::IN, 3, &[piece(DATA, 1024, true)]).expect("good form");
    assert_eq!(read.action, Action::Read { offset: 1536, spans: vec![span(DATA, 1024)], exact: true });
    assert_eq!(read.answer, Answer::Byte(GuestAddress(ANSWER)));
    let write = parse_standard(kind::OUT, 1, &[piece(DATA, 512, false)]).expect("good form");
    assert_eq!(write.action, Action::Write { offset: 512, spans: vec![span(DATA, 512)], exact: true });
    assert_eq!(parse_standard(kind::FLUSH, 0, &[]).expect("good form").action, Action::Flush);
    assert_eq!(parse_standard(99, 0, &[]).expect("good form").action, Action::Unknown);
    write_wire(ram.dma(), DATA, &StandardRange { sector: 2, sector_count: 3, flags: 1 });
    let zero = parse_standard(kind::WRITE_ZEROES, 0, &[piece(DATA, 16, false)]).expect("good form");
    let ranges = vec![Range { offset: 1024, length: 1536, may_unmap: true }];
    assert_eq!(zero.action, Action::WriteZeroes { ranges: ranges.clone(), exact: true });
    let discard = parse_standard(kind::DISCARD, 0, &[piece(DATA, 16, false)]).expect("good form");
    assert_eq!(discard.action, Action::Discard(ranges));

    assert!(parse_standard(kind::IN, 0, &[piece(DATA, 100, true)]).is_err(), "part of a sector");
    assert!(parse_standard(kind::OUT, u64::MAX, &[piece(DATA, 512, false)]).is_err(), "sector out of range");
    assert!(parse_standard(kind::DISCARD, 0, &[piece(DATA, 17, false)]).is_err(), "odd list");
    assert!(parse_standard(kind::DISCARD, 0, &[piece(DATA, 16 * 65, false)]).is_err(), "long list");
    assert!(parse_standard(kind::FLUSH, 0, &[piece(DATA, 16, true)]).is_err(), "room that nobody asked for");
}

#[test]
fn unknown_flags_are_refused() {
    let mut header = vendor(kind::WRITE_ZEROES_BYTES, 0, 100, 0);
    header.flags = 1;
    let range = Range { offset: 0, length: 100, may_unmap: true };
    assert_eq!(
        parse_vendor(&header, &[]).expect("good form").action,
        Action::WriteZeroes { ranges: vec![range], exact: false }
    );
    header.flags = 2;
    assert!(parse_vendor(&header, &[]).is_err());
    header.flags = 0;
    header.reserved = 1;
    assert!(parse_vendor(&header, &[]).is_err());
}

fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => HEAP_START..HEAP_START + 0x8000,
        1 => HEAP_START - 64..HEAP_START + 64,
        1 => MIN_MEMORY_BYTES - 64..MIN_MEMORY_BYTES + 64,
        1 => any::<u64>(),
    ]
}

fn any_descriptor() -> impl Strategy<Value = RawDescriptor> {
    let length = prop_oneof![3 => 0..600u32, 1 => any::<u32>(), 1 => Just(32), 1 => Just(16)];
    (any_address(), length, 0..8u16, 0..QUEUE_SIZE + 2)
        .prop_map(|(address, length, flags, next)| Descriptor::new(address, length, flags, next).into())
}

proptest! {
    /// Whatever stands in a descriptor table and in memory is a request or is refused.
    #[test]
    fn no_chain_panics(
        descriptors in prop::collection::vec(any_descriptor(), usize::from(QUEUE_SIZE)),
        kind in prop_oneof![0..15u32, 0x8000_0000..0x8000_000au32, any::<u32>()],
        memory in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0x400),
        head in 0..QUEUE_SIZE + 1,
    ) {
        let ram = ram();
        ram.dma().write_slice(&memory, GuestAddress(HEAP_START + 0x1000)).expect("in memory");
        for (at, descriptor) in (0..).zip(&descriptors) {
            let queue = queue(ram.dma());
            queue.desc_table().store(at, *descriptor).expect("in the table");
            let address = Descriptor::from(*descriptor).addr();
            // May lie anywhere; a good start makes deeper checks reachable.
            let _ = ram.dma().write_slice(&kind.to_le_bytes(), address);
        }
        if let Ok(request) = parse(ram.dma(), GuestAddress(HEAP_START), QUEUE_SIZE, head) {
            let spans = match &request.action {
                Action::Read { spans, .. } | Action::Write { spans, .. } => spans.as_slice(),
                _ => &[],
            };
            for span in spans {
                prop_assert!(span.address.0 >= HEAP_START);
                prop_assert!(span.address.0 + span.length as u64 <= MIN_MEMORY_BYTES);
            }
        }
    }
}
