//! Raw images: the file is the disk. Its size is rounded up to whole 512-byte sectors.

use super::{Extent, ImageError, Kind, Layer, Source};

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Source);

impl Layer for Raw {
    fn virtual_size(&self) -> u64 {
        self.0.length().next_multiple_of(512)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        Ok(Extent { length: self.virtual_size() - offset, kind: Kind::Data })
    }

    fn read_data(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.0.read(offset, buf)
    }

    fn imago_reads(&self) -> bool {
        true
    }
}
