//! Small chains: what the images are like, and what is written to them.

use arbitrary::{Arbitrary, Result, Unstructured};
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};

use crate::support::{self, QCOW2, RAW, Shape, empty_image};

/// The largest disk in bytes.
const MAX_SIZE_BYTES: u64 = 256 << 10;
/// The most writes to one image.
const MAX_WRITES: usize = 8;

/// One image and what it holds.
#[derive(Clone, Debug)]
pub struct Image {
    shape: Option<Shape>,
    size_bytes: u64,
    writes: Vec<(u64, u64, bool)>,
}

impl Image {
    /// A qcow2 image.
    ///
    /// # Errors
    /// If the bytes run out.
    pub fn qcow2(u: &mut Unstructured<'_>) -> Result<Self> {
        let size_bytes = u.int_in_range(1..=MAX_SIZE_BYTES / 512)? * 512;
        let extended_l2 = u.ratio(1, 4)?;
        let version = if extended_l2 { 3 } else { u.int_in_range(2..=3)? };
        let shape = Shape {
            version,
            cluster_bits: u.int_in_range(if extended_l2 { 14 } else { 9 }..=16)?,
            refcount_order: if version == 2 { 4 } else { u.int_in_range(0..=6)? },
            extended_l2,
            size_bytes,
            has_backing: false,
        };
        Ok(Self { shape: Some(shape), size_bytes, writes: writes(u)? })
    }

    /// A raw image.
    ///
    /// # Errors
    /// If the bytes run out.
    pub fn raw(u: &mut Unstructured<'_>) -> Result<Self> {
        let size_bytes = u.int_in_range(1..=MAX_SIZE_BYTES / 512)? * 512;
        Ok(Self { shape: None, size_bytes, writes: writes(u)? })
    }

    /// The bytes of a qcow2 image of this shape in which nothing is allocated, of a version that can be encrypted and in
    /// clusters that leave room for what says so.
    pub(super) fn empty_for_encryption(&self) -> Vec<u8> {
        let shape = self.shape.clone().expect("a qcow2 image");
        empty_image(&Shape { version: 3, cluster_bits: shape.cluster_bits.max(12), ..shape })
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether it is qcow2.
    #[must_use]
    pub fn is_qcow2(&self) -> bool {
        self.shape.is_some()
    }

    fn extents(&self, pattern: u32) -> Vec<Extent> {
        let clip = |&(start, length, is_zero): &(u64, u64, bool)| {
            let guest_offset = start % self.size_bytes;
            let length_bytes = length.min(self.size_bytes - guest_offset);
            let source =
                if is_zero { Source::Zero } else { Source::Data { device: pattern, host_offset: start ^ length } };
            (length_bytes != 0).then_some(Extent { guest_offset, length_bytes, source })
        };
        self.writes.iter().filter_map(clip).collect()
    }
}

impl<'a> Arbitrary<'a> for Image {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        if u.ratio(1, 5)? { Self::raw(u) } else { Self::qcow2(u) }
    }
}

fn writes(u: &mut Unstructured<'_>) -> Result<Vec<(u64, u64, bool)>> {
    let count = u.int_in_range(0..=MAX_WRITES)?;
    (0..count)
        .map(|_| Ok((u.int_in_range(0..=MAX_SIZE_BYTES)?, u.int_in_range(0..=MAX_SIZE_BYTES / 4)?, u.ratio(1, 3)?)))
        .collect()
}

/// A chain in memory, topmost image first, and the images' formats.
///
/// # Panics
/// If writing to a sound image fails.
#[must_use]
pub fn build(images: &[Image]) -> (MemoryStorage, Vec<u32>) {
    let formats: Vec<u32> = images.iter().map(|image| if image.is_qcow2() { QCOW2 } else { RAW }).collect();
    let bytes = |image: &Image| match &image.shape {
        Some(shape) => empty_image(shape),
        None => vec![0; usize::try_from(image.size_bytes).expect("small")],
    };
    let mut devices: Vec<Vec<u8>> = images.iter().map(bytes).collect();
    devices.push((0..MAX_SIZE_BYTES * 2).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 9).to_le_bytes()[0] | 1).collect());
    let mut storage = MemoryStorage { devices };
    let pattern = u32::try_from(images.len()).expect("few");
    for (layer, image) in (0..pattern).zip(images).rev() {
        support::write(&mut storage, &formats, layer, &image.extents(pattern));
    }
    storage.devices.pop();
    (storage, formats)
}
