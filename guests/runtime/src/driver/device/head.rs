//! The first bytes of a device, which are read again and again: whoever opens an image for a purpose of its own reads its header.

use alloc::vec;

use instar_exec::StorageError;

use super::{Device, Transport};

/// How much of a device's start is kept, in bytes: what is read of the headers of most formats.
const HEAD_BYTES: usize = 4096;

impl Device {
    /// Fills a buffer with what is kept of the device's start, or is kept from now on; `false` where it lies elsewhere. There is
    /// nothing queued that changes it.
    pub(super) fn read_from_head(
        &mut self,
        t: &mut dyn Transport,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, StorageError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        if end > HEAD_BYTES {
            return Ok(false);
        }
        let head = match self.head.take() {
            Some(head) => head,
            None => {
                let mut head = vec![0; HEAD_BYTES];
                self.read_now(t, 0, &mut head)?;
                head
            }
        };
        buffer.copy_from_slice(&head[start..end]);
        self.head = Some(head);
        Ok(true)
    }
}
