//! How an overlay gets another backing file without showing anything else: what has to be compared, what the overlay
//! receives, and what its header becomes.

mod compare;
mod header;
mod qcow2;
mod rewrite;
mod vmdk;

pub use compare::{Comparison, Verdicts, plan_comparisons};
pub use header::{HeaderRefusal, NewBacking, plan_header};
pub use qcow2::{Packing, Received, plan_rebase_qcow2};
pub use rewrite::{HeaderWrite, plan_header_writes};
pub use vmdk::plan_rebase_vmdk;
