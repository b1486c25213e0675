//! The safe rebase: window by window, the overlay receives what the old chain shows and the new one does not.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::{RebaseReport, error_kind};
use instar_formats::qcow2::Access;
use instar_formats::qcow2::geometry::Geometry;
use instar_plan::extent::{Extent, Source};
use instar_plan::planted::{self, Bug};
use instar_plan::rebase::{Comparison, Packing, Received, Verdicts, plan_comparisons, plan_header, plan_rebase_qcow2};

use super::chains::{Chains, Views};
use super::compare::Comparer;
use super::order::Order;
use crate::bytes::to_index;
use crate::job::Job;
use crate::layer::Result;
use crate::open::open_qcow2;
use crate::pack::Packer;
use crate::qcow2::Qcow2Target;
use crate::report::Failure;
use crate::storage::Storage;
use crate::target::Target;

/// The most bytes of the disk that are looked at together: what bounds the lists of extents.
const WINDOW_BYTES_MAX: u64 = 16 << 20;

/// Rebases the overlay onto a chain that may show other bytes. The header is known to be writable.
///
/// # Errors
/// If an image cannot be read, or the overlay not be written. The overlay shows what it showed all the same.
pub(super) fn rebase(storage: &mut dyn Storage, job: &Job<'_>, order: &Order) -> Result<RebaseReport> {
    let image = open_qcow2(storage, job, 0, Access::ReadWrite)?;
    let chains = Chains::open(storage, job, order)?;
    // A chain may lie below the overlay before or after: an unallocated cluster is never as good as a zero one.
    let overlay = Qcow2Target::new(storage, image, true)?;
    let mut work = Work {
        geometry: overlay.header().geometry(),
        size_bytes: overlay.size_bytes(),
        window_bytes: overlay.window_bytes().min(WINDOW_BYTES_MAX),
        packing: if order.compresses { Packing::WholeClusters } else { Packing::Never },
        packer: Packer::new(overlay.header().compression_type),
        cluster: vec![0; if order.compresses { to_index(overlay.header().cluster_size_bytes()) } else { 0 }],
        overlay,
        chains,
        comparer: Comparer::new(job),
        report: RebaseReport { clusters_copied: 0, bytes_copied: 0 },
    };
    // All metadata is read once before anything is written, so that broken tables are found while nothing has changed.
    let mut total_bytes = 0;
    work.for_each_window(storage, |_, _, window| {
        total_bytes += window.read_bytes();
        Ok(())
    })?;
    storage.progress(0, total_bytes);
    let mut done_bytes = 0;
    work.for_each_window(storage, |work, storage, window| {
        done_bytes += window.read_bytes();
        work.carry_over(storage, window)?;
        storage.progress(done_bytes, total_bytes);
        Ok(())
    })?;
    if !planted::is(Bug::HeaderSwitchedTooEarly) {
        work.overlay.make_visible(storage)?;
    }
    let header = plan_header(work.overlay.header(), &order.backing())
        .map_err(|error| Failure::new(error_kind::JOB, 0, error))?;
    work.overlay.replace_header(storage, header)?;
    if planted::is(Bug::HeaderSwitchedTooEarly) {
        work.overlay.make_visible(storage)?;
    }
    Ok(work.report)
}

/// A part of the disk in which something has to be compared.
struct Window {
    own: Vec<Extent>,
    views: Views,
    comparisons: Vec<Comparison>,
    verdicts: Verdicts,
}

impl Window {
    fn read_bytes(&self) -> u64 {
        self.comparisons.iter().map(Comparison::read_bytes).sum()
    }
}

/// Everything that takes part.
struct Work {
    geometry: Geometry,
    size_bytes: u64,
    window_bytes: u64,
    packing: Packing,
    packer: Packer,
    /// A cluster that is about to be packed.
    cluster: Vec<u8>,
    overlay: Qcow2Target,
    chains: Chains,
    comparer: Comparer,
    report: RebaseReport,
}

impl Work {
    /// Calls `act` with every window in which metadata alone does not tell that both chains show the same.
    fn for_each_window(
        &mut self,
        storage: &mut dyn Storage,
        mut act: impl FnMut(&mut Self, &mut dyn Storage, Window) -> Result<()>,
    ) -> Result<()> {
        let mut next = 0;
        loop {
            next = self.chains.next_difference(next);
            if next >= self.size_bytes {
                return Ok(());
            }
            let start = next / self.window_bytes * self.window_bytes;
            let end = start.saturating_add(self.window_bytes).min(self.size_bytes);
            if let Some(window) = self.window(storage, start, end)? {
                act(self, storage, window)?;
            }
            next = end;
        }
    }

    fn window(&mut self, storage: &mut dyn Storage, start: u64, end: u64) -> Result<Option<Window>> {
        let own = self.overlay.own_extents(storage, start, end)?;
        if own.iter().all(|extent| extent.source != Source::Absent) {
            return Ok(None);
        }
        let Some(views) = self.chains.views(storage, start, end)? else { return Ok(None) };
        let mut verdicts = Verdicts::new(start, end, self.geometry.subcluster_size_bytes());
        let comparisons = plan_comparisons(&own, &views.old, &views.new, &mut verdicts);
        Ok((!comparisons.is_empty()).then_some(Window { own, views, comparisons, verdicts }))
    }

    /// Gives the overlay what it would no longer show in a window.
    fn carry_over(&mut self, storage: &mut dyn Storage, mut window: Window) -> Result<()> {
        self.comparer.compare(storage, &window.comparisons, &mut window.verdicts)?;
        let received =
            plan_rebase_qcow2(&self.geometry, self.packing, &window.own, &window.views.old, &window.verdicts);
        if received.plain.is_empty() && received.packed.is_empty() {
            return Ok(());
        }
        if !received.packed.is_empty() {
            self.overlay.check_packing()?;
        }
        self.count(&received);
        self.overlay.announce(storage, &received.plain)?;
        for pieces in &received.packed {
            self.overlay.announce(storage, pieces)?;
        }
        self.overlay.announced(storage)?;
        self.overlay.put(storage, self.chains.old(), &received.plain)?;
        for pieces in &received.packed {
            self.put_packed(storage, pieces)?;
        }
        if self.overlay.is_under_pressure() { self.overlay.make_visible(storage) } else { Ok(()) }
    }

    /// Stores a cluster packed, or as it is where that is not shorter.
    fn put_packed(&mut self, storage: &mut dyn Storage, pieces: &[Extent]) -> Result<()> {
        let Some(first) = pieces.first() else { return Ok(()) };
        self.comparer.old().fill(storage, pieces, &mut self.cluster)?;
        if let Some(packed) = self.packer.pack(&self.cluster) {
            let cluster = self.geometry.cluster_index(first.guest_offset);
            if self.overlay.put_packed(storage, cluster, packed)? {
                return Ok(());
            }
        }
        self.overlay.put(storage, self.chains.old(), pieces)
    }

    /// Adds to the tally; a cluster that several extents share counts once.
    fn count(&mut self, received: &Received) {
        let mut counted = 0;
        let mut extents: Vec<&Extent> = received.plain.iter().chain(received.packed.iter().flatten()).collect();
        extents.sort_unstable_by_key(|extent| extent.guest_offset);
        for extent in extents {
            let first = self.geometry.cluster_index(extent.guest_offset).max(counted);
            counted = self.geometry.clusters_for(extent.end()).max(counted);
            self.report.clusters_copied += counted - first;
            self.report.bytes_copied += extent.length_bytes;
        }
    }
}
