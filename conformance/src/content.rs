//! What a guest reads through a chain, as a value that can be compared.

use crate::digest::BLOCK;
use crate::image::{Chain, ImageError, Kind, MAX_PIECES};
use std::collections::{BTreeMap, BTreeSet};

static ZEROS: [u8; 65536] = [0; 65536];

/// The blocks of a disk that are not all zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    size_bytes: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    /// Reads everything.
    ///
    /// # Errors
    /// If the chain cannot be read, or is damaged in a way that would take for ever.
    pub fn of(chain: &Chain) -> Result<Self, ImageError> {
        let size_bytes = chain.virtual_size();
        let mut content = Self { size_bytes, blocks: BTreeMap::new() };
        let (mut start, mut steps) = (0, 0);
        while start < size_bytes {
            steps += 1;
            if steps > MAX_PIECES {
                return Err(ImageError(format!("more than {MAX_PIECES} pieces")));
            }
            let piece = chain.piece_at(start)?;
            if piece.kind != Kind::Data && piece.length >= BLOCK {
                start += piece.length / BLOCK * BLOCK;
                continue;
            }
            let count = usize::try_from(BLOCK.min(size_bytes - start)).expect("64 KiB fit");
            let mut block = vec![0; count];
            chain.read(start, &mut block)?;
            if block != ZEROS[..count] {
                content.blocks.insert(start / BLOCK, block);
            }
            start += BLOCK;
        }
        Ok(content)
    }

    /// Every stretch of `unit_bytes` (a power of two) in which two disks differ, by its first byte.
    pub fn differences(&self, other: &Self, unit_bytes: u64) -> Vec<u64> {
        let mut units = BTreeSet::new();
        for index in self.blocks.keys().chain(other.blocks.keys()) {
            let (mine, theirs) = (self.blocks.get(index), other.blocks.get(index));
            if mine == theirs {
                continue;
            }
            let byte = |block: Option<&Vec<u8>>, at: usize| block.and_then(|block| block.get(at)).copied().unwrap_or(0);
            let differing = (0..ZEROS.len()).filter(|at| byte(mine, *at) != byte(theirs, *at));
            units.extend(differing.map(|at| (index * BLOCK + at as u64) / unit_bytes * unit_bytes));
        }
        units.into_iter().collect()
    }

    /// The first byte in which two disks differ; `None` for equal ones.
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        if self.size_bytes != other.size_bytes {
            return Some(self.size_bytes.min(other.size_bytes));
        }
        let indexes = self.blocks.keys().chain(other.blocks.keys());
        let index = indexes.filter(|index| self.blocks.get(index) != other.blocks.get(index)).min()?;
        let byte = |content: &Self, at: usize| content.blocks.get(index).and_then(|block| block.get(at)).copied();
        let at = (0..65536).find(|at| byte(self, *at).unwrap_or(0) != byte(other, *at).unwrap_or(0)).unwrap_or(0);
        Some(index * BLOCK + at as u64)
    }
}
