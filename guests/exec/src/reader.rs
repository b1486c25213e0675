//! Reads what extents show, in large pieces and without a new buffer for each.

use alloc::vec::Vec;

use instar_plan::extent::{CompressedSource, Extent, Source};

use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};
use crate::unpack;

/// How much is read at once.
pub(crate) const BUFFER_BYTES: u64 = 1 << 20;

/// A buffer, and the compressed cluster that was unpacked last.
pub(crate) struct Reader {
    /// Empty until something is read.
    buffer: Vec<u8>,
    unpacked: Option<(u32, u64, Vec<u8>)>,
    /// The layer of each device, for messages.
    layers: Vec<u32>,
}

impl Reader {
    pub(crate) fn new(job: &Job<'_>) -> Self {
        let layers = job.devices.iter().map(|device| device.layer).collect();
        Self { buffer: Vec::new(), unpacked: None, layers }
    }

    /// The bytes of a source, at most [`BUFFER_BYTES`]; `None` stands for zeros.
    ///
    /// # Errors
    /// If a device refuses, or a compressed cluster does not unpack.
    pub(crate) fn view(
        &mut self,
        storage: &mut dyn Storage,
        source: Source,
        length_bytes: u64,
    ) -> Result<Option<&[u8]>> {
        match source {
            Source::Absent | Source::Zero => Ok(None),
            Source::Data { device, host_offset } => {
                let layer = self.layer(device);
                self.buffer.resize(to_index(BUFFER_BYTES), 0);
                let bytes = &mut self.buffer[..to_index(length_bytes)];
                storage.read(DeviceId(device), host_offset, bytes).map_err(|error| Failure::storage(layer, error))?;
                Ok(Some(bytes))
            }
            Source::Compressed(source) => {
                let start = to_index(source.offset_in_cluster);
                let cluster = self.unpack(storage, &source)?;
                Ok(Some(&cluster[start..start + to_index(length_bytes)]))
            }
        }
    }

    /// Fills `bytes` with what `extents` show from the first one's start on; the rest becomes zero.
    ///
    /// # Errors
    /// As [`Reader::view`].
    pub(crate) fn fill(&mut self, storage: &mut dyn Storage, extents: &[Extent], bytes: &mut [u8]) -> Result<()> {
        let mut position = 0;
        for extent in extents {
            let part = &mut bytes[position..position + to_index(extent.length_bytes)];
            position += part.len();
            match extent.source {
                Source::Absent | Source::Zero => part.fill(0),
                Source::Data { device, host_offset } => storage
                    .read(DeviceId(device), host_offset, part)
                    .map_err(|error| Failure::storage(self.layer(device), error))?,
                Source::Compressed(source) => {
                    let unpacked = self.unpack(storage, &source)?;
                    part.copy_from_slice(unpack::part(&source, unpacked, extent.length_bytes)?);
                }
            }
        }
        bytes[position..].fill(0);
        Ok(())
    }

    /// The layer that a device belongs to, for messages.
    pub(crate) fn layer(&self, device: u32) -> u32 {
        self.layers.get(to_index(u64::from(DeviceId(device).file().0))).copied().unwrap_or(0)
    }

    fn unpack(&mut self, storage: &mut dyn Storage, source: &CompressedSource) -> Result<&[u8]> {
        let key = (source.device, source.host_offset);
        let cluster = match self.unpacked.take() {
            Some((device, offset, bytes)) if (device, offset) == key => bytes,
            _ => unpack::cluster(storage, source)?,
        };
        Ok(&self.unpacked.insert((key.0, key.1, cluster)).2)
    }
}
