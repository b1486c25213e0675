//! One batch of packed clusters. Where the table does not make sense the rest is left undone, as with bytes that are not what
//! the codec packs.

use instar_abi::block::codec;
use instar_abi::unpack::{Batch, Entry, MAX_ENTRIES};
use instar_abi::wire::Wire;
use instar_exec::Codec;
use instar_exec::unpack::open;

/// Unpacks the clusters of a table, and notes in it how many it could.
pub(super) fn unpack(table: &mut [u8], mut packed: &[u8], mut unpacked: &mut [u8]) {
    let mut batch = Batch::get(table);
    batch.done = 0;
    for place in 0..batch.count.min(MAX_ENTRIES) as usize {
        let entry = Entry::get(&table[Batch::SIZE_BYTES + place * Entry::SIZE_BYTES..]);
        let Some((own, rest)) = packed.split_at_checked(entry.packed_bytes as usize) else { break };
        packed = rest;
        let Some((bytes, rest)) = unpacked.split_at_mut_checked(entry.cluster_bytes as usize) else { break };
        unpacked = rest;
        let codec = match entry.codec {
            codec::DEFLATE => Codec::Deflate,
            codec::ZLIB => Codec::Zlib,
            codec::ZSTD => Codec::Zstd,
            _ => break,
        };
        bytes.fill(0);
        if !open(codec, own, bytes) {
            break;
        }
        batch.done += 1;
    }
    batch.put(table);
}
