//! Looks ahead at the first bytes of units that are going to be compared, all at once: past the page cache where the cache has nothing
//! of them, or else by telling the system of them.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backend::{Backend, Place};
use super::ring::{BLOCK_BYTES, BLOCKS, Lent, Rings};

/// What is looked at of a unit.
pub(super) const PROBE_BYTES: u64 = BLOCK_BYTES as u64;
/// How many units can be looked at together.
pub(super) const PROBED_TOGETHER: u64 = BLOCKS as u64;
/// Within so many bytes of a file the page cache is taken to have all or nothing.
const REGION_BYTES: u64 = 64 << 20;

/// A file that rings can read.
#[derive(Debug)]
pub(super) struct Probed<'a> {
    /// Opened with `O_DIRECT`.
    file: &'a File,
    rings: Arc<Rings>,
    /// The region that was asked about last, doubled; one more if the page cache has it.
    cached: AtomicU64,
}

impl<'a> Probed<'a> {
    /// A file that was opened with `O_DIRECT`.
    pub(super) fn new(file: &'a File, rings: Arc<Rings>) -> Self {
        Self { file, rings, cached: AtomicU64::new(u64::MAX) }
    }

    /// Whether the page cache has what lies around a place, as `ask` says of the place itself.
    fn is_cached(&self, offset: u64, ask: impl FnOnce() -> bool) -> bool {
        let region = offset / REGION_BYTES * 2;
        let last = self.cached.load(Ordering::Relaxed);
        if last & !1 == region {
            return last != region;
        }
        let is_cached = ask();
        self.cached.store(region + u64::from(is_cached), Ordering::Relaxed);
        is_cached
    }
}

/// What was looked at ahead of some units of a file.
#[derive(Debug, Default)]
pub(super) struct Probes {
    ring: Option<Lent>,
    /// Where the units start of which blocks were read, relative to the comparison's start.
    units: Range<u64>,
    unit_bytes: u64,
}

impl Probes {
    /// Forgets everything: another comparison begins.
    pub(super) fn begin(&mut self) {
        self.units = 0..0;
    }

    /// Looks at all units in `units`, which are counted from a place on.
    pub(super) fn look_ahead(&mut self, (backend, offset): Place<'_>, units: Range<u64>, unit_bytes: u64) {
        let step = usize::try_from(unit_bytes).unwrap_or(usize::MAX);
        let starts: Vec<u64> = units.clone().step_by(step).map(|start| offset + start).collect();
        let rest = match backend.probed().and_then(|probed| self.read(backend, probed, &starts)) {
            Some(count) => {
                self.units = units.start..units.start + count as u64 * unit_bytes;
                self.unit_bytes = unit_bytes;
                &starts[count..]
            }
            None => &starts,
        };
        for start in rest {
            backend.expect(*start, PROBE_BYTES);
        }
    }

    /// Reads the first of the blocks, where that is worth while; says how many.
    fn read(&mut self, backend: &Backend<'_>, probed: &Probed<'_>, starts: &[u64]) -> Option<usize> {
        let last = *starts.last()?;
        let is_aligned = starts.iter().all(|start| start.is_multiple_of(PROBE_BYTES));
        // What was compared before has had the system read ahead, but not as far as the last one.
        if !is_aligned || probed.is_cached(last, || backend.is_cached(last)) {
            return None;
        }
        if self.ring.is_none() {
            self.ring = probed.rings.lend();
        }
        self.ring.as_mut()?.read(probed.file, starts);
        Some(starts.len().min(BLOCKS))
    }

    /// Whether the first bytes of the unit that starts at `start` were read.
    pub(super) fn has(&self, start: u64) -> bool {
        self.index(start).is_some_and(|index| self.ring.as_ref().is_some_and(|ring| ring.has(index)))
    }

    /// These bytes, [`PROBE_BYTES`] of them.
    pub(super) fn get(&mut self, start: u64) -> Option<&[u8]> {
        let index = self.index(start)?;
        self.ring.as_mut()?.block(index)
    }

    fn index(&self, start: u64) -> Option<usize> {
        let ahead = start.checked_sub(self.units.start).filter(|_| self.units.contains(&start))?;
        let index = ahead.is_multiple_of(self.unit_bytes).then_some(ahead / self.unit_bytes)?;
        usize::try_from(index).ok()
    }
}
