//! Compares what two chains show, byte by byte, in large pieces and without a new buffer for each.

use alloc::vec;
use alloc::vec::Vec;

use instar_plan::extent::{CompressedSource, Source};
use instar_plan::rebase::{Comparison, Verdicts};

use crate::job::Job;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::transfer::to_index;
use crate::unpack;

/// How much of each side is read at once.
const BUFFER_BYTES: u64 = 1 << 20;

/// Two sides that are compared.
pub(super) struct Comparer {
    old: Side,
    new: Side,
    /// The layer of each device, for messages.
    layers: Vec<u32>,
}

/// One side: what was read last.
struct Side {
    buffer: Vec<u8>,
    unpacked: Option<(u32, u64, Vec<u8>)>,
}

impl Comparer {
    pub(super) fn new(job: &Job<'_>) -> Self {
        let side = || Side { buffer: vec![0; to_index(BUFFER_BYTES)], unpacked: None };
        Self { old: side(), new: side(), layers: job.devices.iter().map(|device| device.layer).collect() }
    }

    /// Compares a range, and records in `verdicts` what it has shown.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    pub(super) fn compare(
        &mut self,
        storage: &mut dyn Storage,
        comparison: &Comparison,
        verdicts: &mut Verdicts,
    ) -> Result<()> {
        let mut position = comparison.guest_offset;
        while position < comparison.end() {
            if verdicts.is_settled(position) {
                position = verdicts.unit_end(position);
                continue;
            }
            let length = (comparison.end() - position).min(BUFFER_BYTES);
            let distance = position - comparison.guest_offset;
            let old = self.old.read(storage, &self.layers, comparison.old.advanced(distance), length)?;
            let new = self.new.read(storage, &self.layers, comparison.new.advanced(distance), length)?;
            let end = position + length;
            let mut place = position;
            while place < end {
                let next = verdicts.unit_end(place).min(end);
                let range = to_index(place - position)..to_index(next - position);
                let (old, new) = (old.map(|bytes| &bytes[range.clone()]), new.map(|bytes| &bytes[range.clone()]));
                let old_is_zero = old.is_none_or(is_zero);
                let differs = match (old, new) {
                    (Some(old), Some(new)) => old != new,
                    (None, Some(new)) => !is_zero(new),
                    (_, None) => !old_is_zero,
                };
                verdicts.record(place, differs, old_is_zero);
                place = next;
            }
            position = end;
        }
        Ok(())
    }
}

impl Side {
    /// The bytes of a source; `None` stands for zeros.
    fn read(
        &mut self,
        storage: &mut dyn Storage,
        layers: &[u32],
        source: Source,
        length_bytes: u64,
    ) -> Result<Option<&[u8]>> {
        let layer_of = |device: u32| layers.get(to_index(u64::from(device))).copied().unwrap_or(0);
        match source {
            Source::Absent | Source::Zero => Ok(None),
            Source::Data { device, host_offset } => {
                let bytes = &mut self.buffer[..to_index(length_bytes)];
                storage
                    .read(DeviceId(device), host_offset, bytes)
                    .map_err(|error| Failure::storage(layer_of(device), error))?;
                Ok(Some(bytes))
            }
            Source::Compressed(source) => {
                let start = to_index(source.offset_in_cluster);
                let cluster = self.unpack(storage, layer_of(source.device), &source)?;
                Ok(Some(&cluster[start..start + to_index(length_bytes)]))
            }
        }
    }

    fn unpack(&mut self, storage: &mut dyn Storage, layer: u32, source: &CompressedSource) -> Result<&[u8]> {
        let key = (source.device, source.host_offset);
        let cluster = match self.unpacked.take() {
            Some((device, offset, bytes)) if (device, offset) == key => bytes,
            _ => unpack::cluster(storage, layer, source)?,
        };
        Ok(&self.unpacked.insert((key.0, key.1, cluster)).2)
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    // Most data shows itself in its first bytes; the blocks keep the loop one that a compiler can vectorise.
    words.chunks(16).all(|block| block.iter().fold(0, |sum, word| sum | u128::from_ne_bytes(*word)) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;
    use alloc::vec;

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for length in [0, 1, 15, 16, 17, 255, 256, 257, 1000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for place in 0..length {
                bytes[place] = 0x80;
                assert!(!is_zero(&bytes), "{place} of {length}");
                bytes[place] = 0;
            }
        }
    }
}
