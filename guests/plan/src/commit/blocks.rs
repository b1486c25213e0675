//! Plans how extents get into an image that is made of tables and blocks and has no refcounts.
//!
//! Knows what the table entries of the range mean; decides where bytes go and which blocks are new. A block that exists is
//! written in place, and nothing is ever given up: formats of this kind cannot tell what is free.

use alloc::vec::Vec;

use super::Place;
use super::qcow2::filled;
use crate::extent::{Extent, Pieces, Source};

/// What an image says about one of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Not in this image: what lies below shows through.
    Unallocated,
    /// Zeros, by the table entry alone.
    Zero,
    /// The block's bytes lie at this offset.
    Data(u64),
    /// The block is packed with raw deflate.
    Packed {
        /// Where the packed bytes begin.
        offset: u64,
        /// How many they are.
        length_bytes: u64,
    },
}

/// What the planner has to know of the image as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTarget {
    /// Virtual size in bytes: what lies behind it in the last block belongs to nobody.
    pub size_bytes: u64,
    /// Length of a block in bytes.
    pub block_size_bytes: u64,
    /// Whether something lies below the image, so that an unallocated block need not read as zeros.
    pub has_backing: bool,
    /// Whether an entry can say that a block reads as zeros.
    pub has_zero_entries: bool,
}

/// One thing to do; steps are in the order of the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockStep {
    /// Bytes go into a block, whose entry leads to them afterwards.
    Write {
        /// Index of the block.
        block: u64,
        /// Where to.
        place: Place,
        /// What: in order, without overlap. `Absent` stands for what the image and its chain show there now. For a new
        /// place they cover the whole block.
        pieces: Vec<Extent>,
    },
    /// The entry says zeros.
    Zero {
        /// Index of the block.
        block: u64,
    },
}

/// Plans the blocks from `first_block` on, one for each element of `blocks`.
///
/// `sources` are in order; what is `Absent` in them, or not mentioned, stays as it is. Sources end at or before the
/// target's virtual size.
pub fn plan_commit_blocks(
    target: &BlockTarget,
    first_block: u64,
    blocks: &[Block],
    sources: &[Extent],
    steps: &mut Vec<BlockStep>,
) {
    let size = target.block_size_bytes;
    let mut offered = Pieces::of(sources);
    for (block, current) in (first_block..).zip(blocks) {
        let (start, end) = (block * size, ((block + 1) * size).min(target.size_bytes));
        let pieces = offered.present_in(start, end);
        if !pieces.is_empty() {
            steps.extend(plan_block(target, block, *current, pieces, start, end));
        }
    }
}

/// Plans one block that receives `pieces`, which lie in `start..end`.
fn plan_block(
    target: &BlockTarget,
    block: u64,
    current: Block,
    pieces: Vec<Extent>,
    start: u64,
    end: u64,
) -> Option<BlockStep> {
    if let Block::Data(host_offset) = current {
        return Some(BlockStep::Write { block, place: Place::Existing(host_offset), pieces });
    }
    if pieces.iter().all(|piece| piece.source == Source::Zero) {
        let covered: u64 = pieces.iter().map(|piece| piece.length_bytes).sum();
        if current == Block::Zero {
            return None;
        }
        if covered == end - start && target.has_zero_entries {
            return Some(BlockStep::Zero { block });
        }
        if current == Block::Unallocated && !target.has_backing {
            return None;
        }
    }
    let mut pieces = filled(&pieces, start, end);
    let block_end = start + target.block_size_bytes;
    if end < block_end {
        pieces.push(Extent { guest_offset: end, length_bytes: block_end - end, source: Source::Zero });
    }
    Some(BlockStep::Write { block, place: Place::New, pieces })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const SIZE: u64 = 65536;

    fn target(has_backing: bool, has_zero_entries: bool) -> BlockTarget {
        BlockTarget { size_bytes: 2 * SIZE + 512, block_size_bytes: SIZE, has_backing, has_zero_entries }
    }

    fn plain(guest_offset: u64, length_bytes: u64, source: Source) -> Extent {
        Extent { guest_offset, length_bytes, source }
    }

    fn data(guest_offset: u64, length_bytes: u64) -> Extent {
        plain(guest_offset, length_bytes, Source::Data { device: 7, host_offset: guest_offset })
    }

    fn plan(target: &BlockTarget, first: u64, current: Block, sources: &[Extent]) -> Vec<BlockStep> {
        let mut steps = vec![];
        plan_commit_blocks(target, first, &[current], sources, &mut steps);
        steps
    }

    #[test]
    fn a_block_is_overwritten_in_place_whatever_it_receives() {
        for piece in [data(512, 512), plain(0, SIZE, Source::Zero)] {
            let wanted = BlockStep::Write { block: 0, place: Place::Existing(99), pieces: vec![piece] };
            assert_eq!(plan(&target(true, true), 0, Block::Data(99), &[piece]), [wanted]);
        }
    }

    #[test]
    fn a_new_block_is_filled() {
        let packed = Block::Packed { offset: 1, length_bytes: 1 };
        for current in [Block::Unallocated, Block::Zero, packed] {
            let pieces = vec![plain(0, 512, Source::Absent), data(512, 512), plain(1024, SIZE - 1024, Source::Absent)];
            let wanted = BlockStep::Write { block: 0, place: Place::New, pieces };
            assert_eq!(plan(&target(false, false), 0, current, &[data(512, 512)]), [wanted]);
        }
        let last = plan(&target(false, false), 2, Block::Unallocated, &[data(2 * SIZE, 512)]);
        let pieces = vec![data(2 * SIZE, 512), plain(2 * SIZE + 512, SIZE - 512, Source::Zero)];
        assert_eq!(last, [BlockStep::Write { block: 2, place: Place::New, pieces }]);
    }

    #[test]
    fn zeros_need_a_block_only_where_nothing_else_says_zero() {
        let (whole, part) = ([plain(0, SIZE, Source::Zero)], [plain(0, 512, Source::Zero)]);
        assert_eq!(plan(&target(false, false), 0, Block::Unallocated, &whole), []);
        assert_eq!(plan(&target(true, false), 0, Block::Zero, &part), []);
        assert_eq!(plan(&target(true, true), 0, Block::Unallocated, &whole), [BlockStep::Zero { block: 0 }]);
        for (target, sources) in [(target(true, false), whole), (target(true, true), part)] {
            let steps = plan(&target, 0, Block::Unallocated, &sources);
            assert!(matches!(&steps[..], [BlockStep::Write { place: Place::New, .. }]), "{steps:?}");
        }
    }
}
