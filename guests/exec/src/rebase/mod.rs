//! Rebase: the overlay receives what it would otherwise no longer show; then its header names the new backing file.
//!
//! At every moment the overlay shows what it showed: what it receives is what it shows already, and the sector of its
//! header that names the backing file changes once everything else is durable.

mod chains;
mod digest;
mod heading;
mod order;
mod overlay;
mod plain;
mod read_back;
mod safe;

use alloc::vec::Vec;

use instar_abi::report::RebaseReport;

use crate::crypt::unlock_layers;
use crate::job::Job;
use crate::layer::Result;
use crate::open::repair_layer;
use crate::repairs::Repairs;
use crate::report;
use crate::storage::Storage;
use heading::Heading;
use order::{Order, Step};

/// Does the rebase that `job` asks for, and reports. See [`crate::job`] and [`crate::report`] for the layouts.
pub fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    let mut repairs = Repairs::default();
    match rebase(job, storage, &mut repairs) {
        Ok((result, digests)) if digests.is_empty() => report::done(report, &result, &repairs.payload()),
        Ok((result, digests)) => report::done(report, &result, &digests),
        Err(failure) => report::failed_with::<RebaseReport>(report, &failure, &repairs.payload()),
    }
}

/// The report, and what was digested.
fn rebase(job: &[u8], storage: &mut dyn Storage, repairs: &mut Repairs) -> Result<(RebaseReport, Vec<u8>)> {
    let job = Job::parse(job)?;
    const NOTHING: RebaseReport = RebaseReport { clusters_copied: 0, bytes_copied: 0 };
    let order = Order::read(&job)?;
    if order.if_plain {
        plain::rebase(storage, &job, &order)?;
        return Ok((NOTHING, Vec::new()));
    }
    if !Heading::is_known(&job)? {
        return Err(Heading::unknown());
    }
    let storage: &mut dyn Storage = &mut unlock_layers(storage, &job)?;
    if matches!(order.step, Step::DigestOld | Step::DigestNew) {
        return Ok((NOTHING, digest::of_overlay(storage, &job, &order)?));
    }
    repair_layer(storage, &job, 0, repairs)?;
    // Whether the new backing file can be named at all is known before anything is copied.
    let heading = Heading::plan(storage, &job, &order)?;
    if order.is_unsafe || order.step == Step::HeaderOnly {
        heading.write(storage)?;
        return Ok((NOTHING, Vec::new()));
    }
    Ok((safe::rebase(storage, &job, &order, &heading)?, Vec::new()))
}
