//! Rebase: the overlay receives what it would otherwise no longer show; then its header names the new backing file.
//!
//! At every moment the overlay shows what it showed: what it receives is what it shows already, and its header changes in
//! one write once everything else is durable.

mod chains;
mod compare;
mod order;
mod reader;
mod safe;

use instar_abi::job::format;
use instar_abi::report::{RebaseReport, error_kind};
use instar_plan::rebase::plan_header;

use crate::crypt::unlock_layers;
use crate::job::Job;
use crate::layer::Result;
use crate::open::{image_device, repair_layer};
use crate::qcow2::{encoded, read_own_header, write_header};
use crate::repairs::Repairs;
use crate::report::{self, Failure};
use crate::storage::Storage;
use order::Order;

/// "Operation not supported".
const ENOTSUP: i32 = 95;

/// Does the rebase that `job` asks for, and reports. See [`crate::job`] and [`crate::report`] for the layouts.
pub fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    let mut repairs = Repairs::default();
    match rebase(job, storage, &mut repairs) {
        Ok(result) => report::done(report, &result, &repairs.payload()),
        Err(failure) => report::failed_with::<RebaseReport>(report, &failure, &repairs.payload()),
    }
}

fn rebase(job: &[u8], storage: &mut dyn Storage, repairs: &mut Repairs) -> Result<RebaseReport> {
    let job = Job::parse(job)?;
    let order = Order::read(&job)?;
    let (device, image_format) = image_device(&job, 0)?;
    if image_format != format::QCOW2 {
        return Err(Failure { errno: ENOTSUP, ..Failure::new(error_kind::JOB, 0, "Operation not supported") });
    }
    let storage: &mut dyn Storage = &mut unlock_layers(storage, &job)?;
    repair_layer(storage, &job, 0, repairs)?;
    // Whether the new header can be written at all is known before anything is copied.
    let header = read_own_header(storage, 0, device)?;
    let planned = plan_header(&header, &order.backing()).map_err(|error| Failure::new(error_kind::JOB, 0, error))?;
    let first_cluster = encoded(&planned)?;
    if order.is_unsafe {
        write_header(storage, 0, device, &first_cluster)?;
        return Ok(RebaseReport { clusters_copied: 0, bytes_copied: 0 });
    }
    if order.compresses && header.is_encrypted() {
        // Compressed clusters are stored as they are: what they hold could be read without the key.
        let text = "Compression and encryption not supported at the same time";
        return Err(Failure::new(error_kind::REFUSED, 0, text));
    }
    safe::rebase(storage, &job, &order)
}
