//! Commit: what the layers above a base hold goes into the base; then the overlay may forget it.

use alloc::vec::Vec;

use instar_abi::job::{CommitJob, commit_flag};
use instar_abi::report::{CommitReport, error_kind};
use instar_plan::extent::Source;

use crate::compare_base::{compare_base, digest_rest};
use crate::crypt::unlock_layers;
use crate::job::Job;
use crate::layer::Result;
use crate::open::{open_emptier, open_layers, open_target, repair_layer};
use crate::repairs::Repairs;
use crate::report::{self, Failure};
use crate::storage::Storage;
use crate::tally::{NOTHING, count};
use crate::windows::{for_each_window, present};

/// How much of the disk is counted together.
const COUNTED_BYTES: u64 = 32 << 20;

/// Does the commit that `job` asks for, and reports. See [`crate::job`] and [`crate::report`] for the layouts.
pub fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    let mut repairs = Repairs::default();
    match commit(job, storage, &mut repairs) {
        Ok((result, digests)) if digests.is_empty() => report::done(report, &result, &repairs.payload()),
        Ok((result, digests)) => report::done(report, &result, &digests),
        Err(failure) => report::failed_with::<CommitReport>(report, &failure, &repairs.payload()),
    }
}

/// The report, and what was digested.
fn commit(job: &[u8], storage: &mut dyn Storage, repairs: &mut Repairs) -> Result<(CommitReport, Vec<u8>)> {
    let job = Job::parse(job)?;
    let part: CommitJob = job.operation_part()?;
    if part.base_layer == 0 || part.base_layer >= job.layer_count {
        return Err(Failure::new(error_kind::INTERNAL, 0, "the job names a base that it does not have"));
    }
    let storage: &mut dyn Storage = &mut unlock_layers(storage, &job)?;
    if part.flags & commit_flag::DIGEST_ONLY != 0 {
        return Ok((NOTHING, digest_rest(storage, &job, part.base_layer)?));
    }
    if part.flags & commit_flag::COMPARE_ONLY != 0 {
        let tally = compare_base(storage, &job, part.base_layer)?;
        return Ok((tally, digest_rest(storage, &job, part.base_layer)?));
    }
    let tally = if part.flags & commit_flag::EMPTY_ONLY != 0 {
        empty_only(storage, &job, part.base_layer)?
    } else {
        merge(storage, &job, &part, repairs)?
    };
    Ok((tally, Vec::new()))
}

/// Does all of the commit, or everything up to what the overlay may forget.
fn merge(storage: &mut dyn Storage, job: &Job<'_>, part: &CommitJob, repairs: &mut Repairs) -> Result<CommitReport> {
    repair_layer(storage, job, 0, repairs)?;
    let mut above = open_layers(storage, job, 0..part.base_layer)?;
    let mut below = open_layers(storage, job, part.base_layer + 1..job.layer_count)?;
    let empties = part.flags & commit_flag::EMPTY_OVERLAY != 0 && part.base_layer == 1;
    let emptier = if empties { open_emptier(storage, job)? } else { None };
    repair_layer(storage, job, part.base_layer, repairs)?;
    let mut target = open_target(storage, job, part.base_layer)?;

    // Everything is read once before anything is written, so that broken tables are found while nothing has changed.
    let window_bytes = target.window_bytes();
    let mut tally = NOTHING;
    let cluster_size_bytes = above[0].cluster_size_bytes();
    let mut has_zeros = false;
    for_each_window(&mut above, storage, window_bytes, |storage, sources| {
        target.announce(storage, sources)?;
        count(&mut tally, sources, cluster_size_bytes);
        has_zeros |= sources.iter().any(|extent| extent.source == Source::Zero);
        Ok(())
    })?;
    let total_bytes = tally.bytes_committed;
    storage.progress(0, total_bytes);
    target.grow(storage, &mut below, above[0].size_bytes())?;
    if total_bytes != 0 {
        target.announced(storage)?;
    }
    if has_zeros {
        let mut has_released = false;
        for_each_window(&mut above, storage, window_bytes, |storage, sources| {
            has_released |= target.vacate(storage, sources)?;
            if target.is_under_pressure() { target.make_visible(storage) } else { Ok(()) }
        })?;
        if has_released {
            target.make_visible(storage)?;
        }
    }
    let mut done_bytes = 0;
    for_each_window(&mut above, storage, window_bytes, |storage, sources| {
        target.put(storage, &mut below, sources)?;
        if target.is_under_pressure() {
            target.make_visible(storage)?;
        }
        done_bytes += present(sources).map(|extent| extent.length_bytes).sum::<u64>();
        storage.progress(done_bytes, total_bytes);
        Ok(())
    })?;
    target.make_visible(storage)?;
    if let Some(emptier) = emptier.filter(|_| part.flags & commit_flag::COPY_ONLY == 0) {
        emptier.empty(storage)?;
        tally.overlay_clusters_cleared = tally.clusters_committed;
    }
    Ok(tally)
}

/// Empties the overlay, whose base holds everything it held.
fn empty_only(storage: &mut dyn Storage, job: &Job<'_>, base_layer: u32) -> Result<CommitReport> {
    let mut above = open_layers(storage, job, 0..base_layer)?;
    let mut tally = NOTHING;
    let cluster_size_bytes = above[0].cluster_size_bytes();
    for_each_window(&mut above, storage, COUNTED_BYTES, |_, sources| {
        count(&mut tally, sources, cluster_size_bytes);
        Ok(())
    })?;
    if let Some(emptier) = open_emptier(storage, job)?.filter(|_| base_layer == 1) {
        emptier.empty(storage)?;
        tally.overlay_clusters_cleared = tally.clusters_committed;
    }
    Ok(tally)
}
