//! Headers made from parts, and the facts that hold for them.

mod encoding;
mod header;
mod limits;
mod properties;
mod tables;

use alloc::vec;
use alloc::vec::Vec;

/// A first cluster under construction: a valid image of 8 MiB without backing file, in 64 KiB clusters.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
}

impl Image {
    pub(super) fn v3() -> Self {
        let mut image = Self { bytes: vec![0; 1 << 16] };
        image.put(0, b"QFI\xfb");
        image.u32(4, 3);
        image.u32(20, 16);
        image.u64(24, 8 << 20);
        image.u32(36, 1);
        image.u64(40, 0x30000);
        image.u64(48, 0x10000);
        image.u32(56, 1);
        image.u32(96, 4);
        image.u32(100, 112);
        image
    }

    pub(super) fn v2() -> Self {
        let mut image = Self::v3();
        image.u32(4, 2);
        image.bytes[72..].fill(0);
        image
    }

    pub(super) fn put(&mut self, offset: usize, data: &[u8]) -> &mut Self {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
        self
    }

    pub(super) fn u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.put(offset, &value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, offset: usize, value: u64) -> &mut Self {
        self.put(offset, &value.to_be_bytes())
    }

    /// Extensions from `offset` on, and the end marker.
    pub(super) fn extensions(&mut self, offset: usize, extensions: &[(u32, &[u8])]) -> &mut Self {
        let mut offset = offset;
        for (kind, data) in extensions {
            self.u32(offset, *kind).u32(offset + 4, u32::try_from(data.len()).unwrap()).put(offset + 8, data);
            offset += 8 + data.len().next_multiple_of(8);
        }
        self.put(offset, &[0; 8])
    }

    pub(super) fn backing_name(&mut self, offset: u32, name: &[u8]) -> &mut Self {
        self.u64(8, offset.into()).u32(16, u32::try_from(name.len()).unwrap()).put(offset as usize, name)
    }
}
