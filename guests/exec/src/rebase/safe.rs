//! The safe rebase: window by window, the overlay receives what the old chain shows and the new one does not.

use alloc::vec::Vec;

use instar_abi::report::RebaseReport;
use instar_plan::extent::{Extent, Source};
use instar_plan::planted::{self, Bug};
use instar_plan::rebase::Received;

use super::chains::{Chains, Views};
use super::heading::Heading;
use super::order::{Order, Step};
use super::overlay::Overlay;
use super::read_back::read_back;
use crate::compare::{Compared, Comparer};
use crate::job::Job;
use crate::layer::Result;
use crate::storage::Storage;

/// The most bytes of the disk that are looked at together: what bounds the lists of extents.
const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// How much is compared together, so that a request is paid for once a gather of windows.
const GATHERED_BYTES_MAX: u64 = 256 << 20;
/// The most extents that gathered windows may have: what bounds their memory.
const GATHERED_EXTENTS_MAX: usize = 8192;

/// Rebases the overlay onto a chain that may show other bytes. The heading is known to be writable.
///
/// # Errors
/// If an image cannot be read, or the overlay not be written. The overlay shows what it showed all the same.
pub(super) fn rebase(
    storage: &mut dyn Storage,
    job: &Job<'_>,
    order: &Order,
    heading: &Heading,
) -> Result<RebaseReport> {
    let mut overlay = Overlay::open(storage, job, order)?;
    let chains = Chains::open(storage, job, order)?;
    let window_bytes = overlay.target().window_bytes().min(WINDOW_BYTES_MAX);
    let unit_bytes = overlay.unit_bytes(window_bytes);
    let mut work = Work {
        size_bytes: overlay.target().size_bytes(),
        window_bytes,
        unit_bytes,
        cluster_size_bytes: overlay.cluster_size_bytes(),
        compresses: order.compresses,
        reads_back: order.step == Step::CopyOnly && overlay.writes_at_once(),
        overlay,
        chains,
        comparer: Comparer::new(job, unit_bytes),
        report: RebaseReport { clusters_copied: 0, bytes_copied: 0 },
    };
    // All metadata is read once before anything is written, so that broken tables are found while nothing has changed.
    let mut total_bytes = 0;
    work.for_each_window(storage, |_, _, window| {
        total_bytes += window.compared.read_bytes();
        Ok(())
    })?;
    storage.progress(0, total_bytes);
    let (mut done_bytes, mut waiting) = (0, Gathered::default());
    work.for_each_window(storage, |work, storage, window| {
        waiting.push(window);
        if waiting.is_full() {
            done_bytes += waiting.bytes;
            work.carry_over(storage, core::mem::take(&mut waiting).windows)?;
            storage.progress(done_bytes, total_bytes);
        }
        Ok(())
    })?;
    work.carry_over(storage, waiting.windows)?;
    storage.progress(total_bytes, total_bytes);
    if !planted::is(Bug::HeaderSwitchedTooEarly) {
        work.overlay.target().make_visible(storage)?;
    }
    if order.step == Step::CopyOnly {
        return Ok(work.report);
    }
    work.overlay.change_heading(storage, order, heading)?;
    if planted::is(Bug::HeaderSwitchedTooEarly) {
        work.overlay.target().make_visible(storage)?;
    }
    Ok(work.report)
}

/// A part of the disk in which something has to be compared.
struct Window {
    own: Vec<Extent>,
    views: Views,
    compared: Compared,
}

/// Windows that are compared together.
#[derive(Default)]
struct Gathered {
    windows: Vec<Window>,
    bytes: u64,
    extents: usize,
}

impl Gathered {
    fn push(&mut self, window: Window) {
        self.bytes += window.compared.read_bytes();
        let views = window.views.old.len() + window.views.new.len();
        self.extents += window.own.len() + views + window.compared.count();
        self.windows.push(window);
    }

    fn is_full(&self) -> bool {
        self.bytes >= GATHERED_BYTES_MAX || self.extents >= GATHERED_EXTENTS_MAX
    }
}

/// Everything that takes part.
struct Work {
    size_bytes: u64,
    window_bytes: u64,
    /// The smallest part of the overlay that can be received by itself.
    unit_bytes: u64,
    cluster_size_bytes: u64,
    /// Whether the overlay is to receive compressed clusters.
    compresses: bool,
    /// Whether what the overlay receives is read again before tables show it.
    reads_back: bool,
    overlay: Overlay,
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
        let compared = Compared::plan(&own, &views.old, &views.new, (start, end), self.unit_bytes);
        Ok((!compared.is_settled()).then_some(Window { own, views, compared }))
    }

    /// Gives the overlay what it would no longer show in some windows.
    fn carry_over(&mut self, storage: &mut dyn Storage, mut windows: Vec<Window>) -> Result<()> {
        let mut compared: Vec<&mut Compared> = windows.iter_mut().map(|window| &mut window.compared).collect();
        self.comparer.compare(storage, &mut compared)?;
        let mut written = Vec::new();
        for window in windows {
            written.extend(self.receive(storage, window)?);
            if self.overlay.target().is_under_pressure() {
                self.settle(storage, core::mem::take(&mut written))?;
                self.overlay.target().make_visible(storage)?;
            }
        }
        self.settle(storage, written)
    }

    /// Puts what a window receives; gives it back with what has been put plainly, if that is anything.
    fn receive(&mut self, storage: &mut dyn Storage, window: Window) -> Result<Option<(Window, Vec<Extent>)>> {
        let received = self.overlay.plan(&window.own, &window.views.old, &window.compared.verdicts);
        if received.plain.is_empty() && received.packed.is_empty() {
            return Ok(None);
        }
        if self.compresses {
            self.overlay.check_packing(&received)?;
        }
        self.count(&received);
        let target = self.overlay.target();
        target.announce(storage, &received.plain)?;
        for pieces in &received.packed {
            target.announce(storage, pieces)?;
        }
        target.announced(storage)?;
        target.put(storage, self.chains.old(), &received.plain)?;
        let left_over = self.overlay.put_packed(storage, self.comparer.old(), received.packed)?;
        self.overlay.target().put(storage, self.chains.old(), &left_over)?;
        Ok(Some((window, received.plain)))
    }

    /// Has everything written that was put, and reads it back if that is asked for, before tables show it.
    fn settle(&mut self, storage: &mut dyn Storage, written: Vec<(Window, Vec<Extent>)>) -> Result<()> {
        self.overlay.target().place(storage)?;
        for (Window { own, views, .. }, plain) in written.iter().filter(|_| self.reads_back) {
            let now = self.overlay.own_extents(storage, own[0].guest_offset, own[own.len() - 1].end())?;
            read_back(storage, &mut self.comparer, plain, &views.old, &now, self.unit_bytes)?;
        }
        Ok(())
    }

    /// Adds to the tally; a cluster that several extents share counts once.
    fn count(&mut self, received: &Received) {
        let mut counted = 0;
        let mut extents: Vec<&Extent> = received.plain.iter().chain(received.packed.iter().flatten()).collect();
        extents.sort_unstable_by_key(|extent| extent.guest_offset);
        for extent in extents {
            let first = (extent.guest_offset / self.cluster_size_bytes).max(counted);
            counted = extent.end().div_ceil(self.cluster_size_bytes).max(counted);
            self.report.clusters_copied += counted - first;
            self.report.bytes_copied += extent.length_bytes;
        }
    }
}
