//! One batch of clusters to pack, or of packed ones. Where the table does not make sense the rest is left undone, as with bytes
//! that are not what the codec packs.

use instar_abi::block::codec;
use instar_abi::codec_machine::{Batch, Entry, MAX_ENTRIES, task};
use instar_abi::wire::Wire;
use instar_exec::Codec;
use instar_exec::pack::Packer;
use instar_exec::unpack::Unpacker;

/// What is kept between batches.
#[derive(Default)]
pub(super) struct Tools {
    packer: Packer,
    unpacker: Unpacker,
}

/// Does what a table says, and notes in it how much could be done.
pub(super) fn serve(tools: &mut Tools, table: &mut [u8], packed: &mut [u8], clusters: &mut [u8]) {
    let mut batch = Batch::get(table);
    let count = batch.count.min(MAX_ENTRIES) as usize;
    let entries = &mut table[Batch::SIZE_BYTES..][..count * Entry::SIZE_BYTES];
    batch.done = match batch.task {
        task::UNPACK => unpack(&mut tools.unpacker, entries, packed, clusters),
        task::PACK => pack(&mut tools.packer, entries, packed, clusters),
        _ => 0,
    };
    batch.put(table);
}

/// Unpacks; returns how many clusters.
fn unpack(unpacker: &mut Unpacker, entries: &[u8], mut packed: &[u8], mut clusters: &mut [u8]) -> u32 {
    let mut done = 0;
    for entry in entries.chunks_exact(Entry::SIZE_BYTES).map(Entry::get) {
        let Some((own, rest)) = packed.split_at_checked(entry.packed_bytes as usize) else { break };
        packed = rest;
        let Some((cluster, rest)) = clusters.split_at_mut_checked(entry.cluster_bytes as usize) else { break };
        clusters = rest;
        let Some(codec) = codec_of(entry.codec) else { break };
        if unpacker.open(codec, own, cluster) != Some(cluster.len()) {
            break;
        }
        done += 1;
    }
    done
}

/// Packs, and notes the lengths in the entries; returns how many clusters.
fn pack(packer: &mut Packer, entries: &mut [u8], mut packed: &mut [u8], mut clusters: &[u8]) -> u32 {
    let mut done = 0;
    for bytes in entries.chunks_exact_mut(Entry::SIZE_BYTES) {
        let mut entry = Entry::get(bytes);
        let Some((cluster, rest)) = clusters.split_at_checked(entry.cluster_bytes as usize) else { break };
        clusters = rest;
        let Some(codec) = codec_of(entry.codec) else { break };
        let result = packer.pack(codec, cluster).unwrap_or_default();
        // Fewer bytes than the clusters have so far, for which there is room.
        let Some((place, rest)) = core::mem::take(&mut packed).split_at_mut_checked(result.len()) else { break };
        place.copy_from_slice(result);
        packed = rest;
        entry.packed_bytes = u32::try_from(result.len()).unwrap_or(0);
        entry.put(bytes);
        done += 1;
    }
    done
}

fn codec_of(number: u32) -> Option<Codec> {
    match number {
        codec::DEFLATE => Some(Codec::Deflate),
        codec::ZLIB => Some(Codec::Zlib),
        codec::ZSTD => Some(Codec::Zstd),
        _ => None,
    }
}
