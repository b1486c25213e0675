//! Extents: consecutive ranges of a disk and where their bytes come from.

use alloc::vec::Vec;

/// How the bytes of a compressed cluster are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate, as qcow2's "zlib".
    Deflate,
    /// Deflate with header and checksum (RFC 1950), as in vmdk. What it unpacks to may be shorter than a cluster.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A compressed cluster and a place in what it unpacks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressedSource {
    /// Device that holds the packed bytes.
    pub device: u32,
    /// The layer whose cluster it is, for messages.
    pub layer: u32,
    /// First packed byte.
    pub host_offset: u64,
    /// Upper bound of the packed length in bytes.
    pub length_bytes: u64,
    /// Length of the unpacked cluster in bytes.
    pub cluster_size_bytes: u64,
    /// How it is packed.
    pub codec: Codec,
    /// Where in the unpacked cluster the extent starts.
    pub offset_in_cluster: u64,
}

/// Where an extent's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Not in the layer (or layers) that were asked: what lies below shows through.
    Absent,
    /// Zeros.
    Zero,
    /// Bytes of a device.
    Data {
        /// Its number in the job.
        device: u32,
        /// The first byte.
        host_offset: u64,
    },
    /// Bytes of a compressed cluster.
    Compressed(CompressedSource),
}

impl Source {
    /// The source of what lies `distance_bytes` further on in the same extent.
    ///
    /// # Panics
    /// If that is beyond 2^64; extents are checked against that where they are made.
    #[must_use]
    pub fn advanced(self, distance_bytes: u64) -> Self {
        match self {
            Self::Absent | Self::Zero => self,
            Self::Data { device, host_offset } => Self::Data { device, host_offset: host_offset + distance_bytes },
            Self::Compressed(source) => Self::Compressed(CompressedSource {
                offset_in_cluster: source.offset_in_cluster + distance_bytes,
                ..source
            }),
        }
    }
}

/// A range of the disk with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte on the disk.
    pub guest_offset: u64,
    /// Length in bytes, never 0.
    pub length_bytes: u64,
    /// Where the bytes come from.
    pub source: Source,
}

impl Extent {
    /// First byte behind the extent.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.guest_offset + self.length_bytes
    }

    /// The part of the extent that lies in `start..end`; `None` where there is none.
    #[must_use]
    pub fn clipped(&self, start: u64, end: u64) -> Option<Self> {
        let guest_offset = self.guest_offset.max(start);
        let end = self.end().min(end);
        (guest_offset < end).then(|| Self {
            guest_offset,
            length_bytes: end - guest_offset,
            source: self.source.advanced(guest_offset - self.guest_offset),
        })
    }
}

/// Appends an extent, joining it with the last one where the two continue each other.
pub fn push(extents: &mut Vec<Extent>, extent: Extent) {
    if extent.length_bytes == 0 {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.end() == extent.guest_offset
        && !matches!(last.source, Source::Compressed(_))
        && last.source.advanced(last.length_bytes) == extent.source
    {
        last.length_bytes += extent.length_bytes;
    } else {
        extents.push(extent);
    }
}

/// The extents of `upper`, with what is absent there taken from `lower`.
///
/// Both lists are in order and without gaps over the same range; so is the result.
#[must_use]
pub fn overlay_onto(upper: &[Extent], lower: &[Extent]) -> Vec<Extent> {
    let mut merged = Vec::with_capacity(upper.len().max(lower.len()));
    let mut below = 0;
    for extent in upper {
        if extent.source != Source::Absent {
            push(&mut merged, *extent);
            continue;
        }
        while below < lower.len() && lower[below].end() <= extent.guest_offset {
            below += 1;
        }
        let mut index = below;
        while let Some(piece) =
            lower.get(index).and_then(|candidate| candidate.clipped(extent.guest_offset, extent.end()))
        {
            push(&mut merged, piece);
            index += 1;
        }
    }
    merged
}

/// Hands out a list of extents piece by piece, from front to back.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    extents: &'a [Extent],
}

impl<'a> Pieces<'a> {
    /// Of `extents`, which are in order.
    #[must_use]
    pub fn of(extents: &'a [Extent]) -> Self {
        Self { extents }
    }

    /// What lies in `start..end` and is not `Absent`. No later call may ask for anything before `start`.
    pub fn present_in(&mut self, start: u64, end: u64) -> Vec<Extent> {
        let passed = self.extents.iter().take_while(|extent| extent.end() <= start).count();
        self.extents = &self.extents[passed..];
        let inside = self.extents.iter().map_while(|extent| extent.clipped(start, end));
        inside.filter(|piece| piece.source != Source::Absent).collect()
    }

    /// Where the first extent starts that is not `Absent` and not passed yet; `u64::MAX` if there is none.
    #[must_use]
    pub fn next_present(&self) -> u64 {
        let next = self.extents.iter().find(|extent| extent.source != Source::Absent);
        next.map_or(u64::MAX, |extent| extent.guest_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn data(guest_offset: u64, length_bytes: u64, host_offset: u64) -> Extent {
        Extent { guest_offset, length_bytes, source: Source::Data { device: 0, host_offset } }
    }

    fn plain(guest_offset: u64, length_bytes: u64, source: Source) -> Extent {
        Extent { guest_offset, length_bytes, source }
    }

    #[test]
    fn neighbours_join_only_where_the_host_bytes_continue() {
        let mut extents = vec![];
        push(&mut extents, data(0, 4, 100));
        push(&mut extents, data(4, 4, 104));
        push(&mut extents, data(8, 4, 200));
        assert_eq!(extents, vec![data(0, 8, 100), data(8, 4, 200)]);
    }

    #[test]
    fn absent_shows_what_lies_below_and_zero_hides_it() {
        let upper = [plain(0, 4, Source::Absent), plain(4, 4, Source::Zero), plain(8, 8, Source::Absent)];
        let lower = [data(0, 10, 50), plain(10, 6, Source::Absent)];
        assert_eq!(
            overlay_onto(&upper, &lower),
            vec![data(0, 4, 50), plain(4, 4, Source::Zero), data(8, 2, 58), plain(10, 6, Source::Absent)]
        );
    }

    #[test]
    fn pieces_are_clipped_and_absent_ones_left_out() {
        let extents = [data(0, 6, 50), plain(6, 2, Source::Absent), plain(8, 8, Source::Zero)];
        let mut pieces = Pieces::of(&extents);
        assert_eq!(pieces.present_in(0, 4), [data(0, 4, 50)]);
        assert_eq!(pieces.present_in(4, 12), [data(4, 2, 54), plain(8, 4, Source::Zero)]);
        assert_eq!(pieces.present_in(12, 16), [plain(12, 4, Source::Zero)]);
        assert_eq!(pieces.present_in(16, 20), []);
    }
}
