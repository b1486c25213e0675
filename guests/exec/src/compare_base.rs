//! After a commit: whether the base shows what the layers above it hold. Both are there at the same time, so they are compared
//! with each other, which says more than a digest could. Writes nothing.
//!
//! What else lies in the clusters of the base that are written is digested before and afterwards. Does not see: the base's other
//! clusters. That nothing was put into these says the census, taken anew.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_abi::report::{CommitReport, error_kind};
use instar_plan::extent::{Extent, Source};

use crate::compare::{Compared, Comparer};
use crate::digest::Digests;
use crate::job::Job;
use crate::layer::{Layer, Result, map_chain};
use crate::open::{open_layers, open_target};
use crate::report::Failure;
use crate::storage::Storage;
use crate::tally::{NOTHING, count};
use crate::windows::for_each_window;

/// How much of the disk is looked at together: what bounds the lists of extents.
const WINDOW_BYTES: u64 = 16 << 20;
/// The parts that get a verdict each: what a difference is named by.
const UNIT_BYTES: u64 = 4096;
/// How much is compared together, so that a request is paid for once a gather of windows.
const GATHERED_BYTES_MAX: u64 = 256 << 20;
/// The most windows, and ranges in them, that are compared together: what bounds their memory.
const GATHERED_WINDOWS_MAX: usize = 1024;
const GATHERED_RANGES_MAX: usize = 8192;

/// Compares what the layers above the base hold with what the base shows there.
///
/// # Errors
/// If there is a difference; if an image cannot be read; if the base's metadata could not be written by.
pub(crate) fn compare_base(storage: &mut dyn Storage, job: &Job<'_>, base_layer: u32) -> Result<CommitReport> {
    // Opening it for writing checks all refcounts against what is in use.
    drop(open_target(storage, job, base_layer)?);
    let mut above = open_layers(storage, job, 0..base_layer)?;
    let shown = open_layers(storage, job, base_layer..job.layer_count)?;
    let size_bytes = above[0].size_bytes();
    if shown[0].size_bytes() < size_bytes {
        let text = format_args!("its disk ends at byte {}, and {size_bytes} were to be written", shown[0].size_bytes());
        return Err(Failure::new(error_kind::REFUSED, base_layer, text));
    }
    let mut tally = NOTHING;
    let cluster_size_bytes = above[0].cluster_size_bytes();
    let mut base =
        Base { layer: base_layer, shown, comparer: Comparer::new(job, UNIT_BYTES), waiting: Waiting::default() };
    for_each_window(&mut above, storage, WINDOW_BYTES, |storage, sources| {
        count(&mut tally, sources, cluster_size_bytes);
        base.take(storage, sources)
    })?;
    base.compare(storage)?;
    Ok(tally)
}

/// Digests what the base shows beside what the layers above it hold, in those of its clusters that are written. Where clusters
/// of the base are no longer than theirs, that is nothing.
///
/// # Errors
/// If an image cannot be read.
pub(crate) fn digest_rest(storage: &mut dyn Storage, job: &Job<'_>, base_layer: u32) -> Result<Vec<u8>> {
    let mut above = open_layers(storage, job, 0..base_layer)?;
    let mut shown = open_layers(storage, job, base_layer..job.layer_count)?;
    let cluster_bytes = shown[0].cluster_size_bytes().max(1);
    let window_bytes = WINDOW_BYTES.next_multiple_of(cluster_bytes);
    let mut digests = Digests::new(job, above[0].size_bytes());
    for_each_window(&mut above, storage, window_bytes, |storage, sources| {
        for (start, end) in rest_of_clusters(sources, cluster_bytes) {
            let extents = map_chain(&mut shown, storage, start, end)?;
            digests.add(storage, &extents)?;
        }
        Ok(())
    })?;
    Ok(digests.finish())
}

/// What is absent in a window of whole clusters, in clusters in which something is present.
fn rest_of_clusters(sources: &[Extent], cluster_bytes: u64) -> Vec<(u64, u64)> {
    let window_end = sources.last().map_or(0, Extent::end);
    let absent = sources.iter().filter(|extent| extent.source == Source::Absent);
    let ends = absent.flat_map(|extent| {
        let (start, end) = (extent.guest_offset, extent.end());
        let head_end = start.next_multiple_of(cluster_bytes).min(end);
        let tail_start = if end == window_end { end } else { (end / cluster_bytes * cluster_bytes).max(head_end) };
        [(start, head_end), (tail_start, end)]
    });
    ends.filter(|(start, end)| start < end).collect()
}

/// The base and all below it, and what it has yet to be compared with.
struct Base {
    layer: u32,
    shown: Vec<Box<dyn Layer>>,
    comparer: Comparer,
    waiting: Waiting,
}

/// Windows that are compared together.
#[derive(Default)]
struct Waiting {
    windows: Vec<Compared>,
    bytes: u64,
    ranges: usize,
}

impl Waiting {
    fn push(&mut self, window: Compared) {
        self.bytes += window.read_bytes();
        self.ranges += window.count();
        self.windows.push(window);
    }

    fn is_full(&self) -> bool {
        self.bytes >= GATHERED_BYTES_MAX
            || self.ranges >= GATHERED_RANGES_MAX
            || self.windows.len() >= GATHERED_WINDOWS_MAX
    }
}

impl Base {
    /// Takes a window of what the layers above hold; compares when there is enough.
    fn take(&mut self, storage: &mut dyn Storage, sources: &[Extent]) -> Result<()> {
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(()) };
        let range = (first.guest_offset, last.end());
        let shown = map_chain(&mut self.shown, storage, range.0, range.1)?;
        let is_present = |extent: &Extent| extent.source != Source::Absent;
        let apart = |extent: &Extent| Extent {
            source: if is_present(extent) { Source::Absent } else { Source::Zero },
            ..*extent
        };
        let elsewhere: Vec<Extent> = sources.iter().map(apart).collect();
        self.waiting.push(Compared::plan(&elsewhere, sources, &shown, range, UNIT_BYTES));
        if self.waiting.is_full() { self.compare(storage) } else { Ok(()) }
    }

    fn compare(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let mut waiting = core::mem::take(&mut self.waiting).windows;
        self.comparer.compare(storage, &mut waiting.iter_mut().collect::<Vec<_>>())?;
        match waiting.iter().find_map(Compared::first_difference) {
            None => Ok(()),
            Some(byte) => Err(differs(self.layer, byte)),
        }
    }
}

fn differs(layer: u32, byte: u64) -> Failure {
    let text = format_args!(
        "within {UNIT_BYTES} bytes from byte {byte} of the disk on, it reads differently from what was to be written"
    );
    Failure::new(error_kind::REFUSED, layer, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_in_the_same_clusters_is_found() {
        let rest = |lengths: &[(u64, bool)]| {
            let mut sources = Vec::new();
            let mut guest_offset = 200;
            for (length_bytes, is_present) in lengths {
                let source = if *is_present { Source::Zero } else { Source::Absent };
                sources.push(Extent { guest_offset, length_bytes: *length_bytes, source });
                guest_offset += length_bytes;
            }
            rest_of_clusters(&sources, 100)
        };
        assert_eq!(rest(&[(100, true), (300, false), (100, true)]), []);
        assert_eq!(rest(&[(150, false), (20, true), (430, false)]), [(300, 350), (370, 400)]);
        assert_eq!(rest(&[(10, true), (30, false), (60, true)]), [(210, 240)]);
        assert_eq!(rest(&[(10, true), (220, false), (20, true)]), [(210, 300), (400, 430)]);
        assert_eq!(rest(&[(10, true), (33, false)]), [(210, 243)]);
    }
}
