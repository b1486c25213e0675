//! Walks descriptor chains, and reads structures out of the pieces of memory that they name. All of it is the guest's word: every
//! address and every length is checked.

use std::fmt;

use instar_abi::wire::Wire;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::vm::DmaMemory;

/// Descriptor flag: the chain points to a table elsewhere. Not offered, so never honest.
const INDIRECT: u16 = 4;

/// What no honest driver sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A piece of guest memory that devices may reach; checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: GuestAddress,
    pub(super) length: usize,
}

/// The pieces of memory of one chain.
pub(super) struct Chain {
    pub(super) readable: Vec<Span>,
    pub(super) writable: Vec<Span>,
}

impl Chain {
    pub(super) fn walk(memory: &DmaMemory, table: GuestAddress, size: u16, head: u16) -> Result<Self, Malformed> {
        let mut chain = Self { readable: Vec::new(), writable: Vec::new() };
        let mut index = head;
        for _ in 0..size {
            if index >= size {
                return Err(Malformed("a descriptor's number is out of range"));
            }
            let place =
                table.0.checked_add(u64::from(index) * 16).ok_or(Malformed("the descriptor table is out of range"))?;
            let descriptor: Descriptor =
                memory.read_obj(GuestAddress(place)).map_err(|_| Malformed("the descriptor table is out of range"))?;
            if descriptor.flags() & INDIRECT != 0 {
                return Err(Malformed("a descriptor is indirect, which was not agreed"));
            }
            let span = Span { address: descriptor.addr(), length: descriptor.len() as usize };
            if span.length == 0 || !GuestMemoryBackend::check_range(memory, span.address, span.length) {
                return Err(Malformed("a descriptor names memory that devices may not reach"));
            }
            if descriptor.is_write_only() {
                chain.writable.push(span);
            } else if chain.writable.is_empty() {
                chain.readable.push(span);
            } else {
                return Err(Malformed("a descriptor to read follows one to write"));
            }
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
        Err(Malformed("a chain of descriptors has no end"))
    }
}

/// Reads through the pieces of memory that the driver has filled.
pub(super) struct Cursor<'a> {
    pub(super) memory: &'a DmaMemory,
    pub(super) spans: Vec<Span>,
}

impl Cursor<'_> {
    pub(super) fn peek(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let mut done = 0;
        for span in &self.spans {
            let count = span.length.min(bytes.len() - done);
            self.memory
                .read_slice(&mut bytes[done..done + count], span.address)
                .map_err(|_| Malformed("a descriptor names memory that devices may not reach"))?;
            done += count;
            if done == bytes.len() {
                return Ok(());
            }
        }
        Err(Malformed("a request is cut short"))
    }

    fn skip(&mut self, mut count: usize) {
        self.spans.retain_mut(|span| {
            let cut = count.min(span.length);
            count -= cut;
            span.address.0 += cut as u64;
            span.length -= cut;
            span.length != 0
        });
    }

    pub(super) fn take<T: Wire>(&mut self) -> Result<T, Malformed> {
        self.take_list(1).and_then(|mut list| list.pop().ok_or(Malformed("a request is cut short")))
    }

    fn take_list<T: Wire>(&mut self, count: usize) -> Result<Vec<T>, Malformed> {
        let length = count.checked_mul(T::SIZE_BYTES).ok_or(Malformed("a list is too long"))?;
        if (length as u64) > total(&self.spans) {
            return Err(Malformed("a request is cut short"));
        }
        let mut bytes = vec![0; length];
        self.peek(&mut bytes)?;
        self.skip(length);
        Ok(bytes.chunks_exact(T::SIZE_BYTES).map(T::get).collect())
    }

    pub(super) fn records<T: Wire>(&mut self, count: u32) -> Result<Vec<T>, Malformed> {
        self.take_list(count as usize)
    }

    pub(super) fn rest(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.spans)
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.spans.is_empty() { Ok(()) } else { Err(Malformed("a request is longer than it says")) }
    }
}

/// Number of bytes in some pieces.
pub(super) fn total(spans: &[Span]) -> u64 {
    spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.length as u64))
}
