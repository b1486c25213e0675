//! What one worker keeps to while it writes: the limit that all share, and how much has been copied so far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::throttle::Throttle;

/// One worker's share of a batch.
pub(super) struct Pace<'a> {
    throttle: Option<&'a Throttle>,
    copied_bytes: &'a AtomicU64,
    /// Is told how much all workers have copied. Only one of them has somebody to tell.
    watcher: Option<&'a mut dyn FnMut(u64)>,
    /// Whether what is being copied is an upper layer's data.
    pub(super) counts: bool,
}

impl<'a> Pace<'a> {
    pub(super) fn new(
        throttle: Option<&'a Throttle>,
        copied_bytes: &'a AtomicU64,
        watcher: Option<&'a mut dyn FnMut(u64)>,
    ) -> Self {
        Self { throttle, copied_bytes, watcher, counts: false }
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.throttle.is_some()
    }

    /// The most bytes to write in one go, where `most` are wanted.
    pub(super) fn piece_bytes(&self, most: u64) -> u64 {
        self.throttle.map_or(most, |throttle| throttle.piece_bytes().min(most))
    }

    /// Waits until `bytes` may be written.
    pub(super) fn wait_for(&self, bytes: u64) {
        if let Some(throttle) = self.throttle {
            throttle.wait_for(bytes);
        }
    }

    /// Notes that `bytes` have been copied.
    pub(super) fn note_copied(&mut self, bytes: u64) {
        if !self.counts {
            return;
        }
        let sum = self.copied_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(watcher) = &mut self.watcher {
            watcher(sum);
        }
    }
}
