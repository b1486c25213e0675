//! Judges the product: replays recorded cases of twenty qemu-img versions and says where instar differs; draws random cases,
//! and tries what crashes and failing requests leave.
//!
//! Data lies in `instar-testdata/` (fixtures, recordings), `ledger.toml` (known differences) and `whitelist.toml` (fields
//! that qemu-img itself does not give deterministically). Everything that reads an image format here was written for this
//! crate alone: an oracle that shares a parser with the code it judges proves nothing.

pub mod allocation;
pub mod calls;
pub mod case;
pub mod content;
pub mod crash;
pub mod differences;
pub mod differential;
pub mod digest;
pub mod expected;
pub mod fixture;
pub mod folder;
pub mod image;
pub mod json_lines;
pub mod judge;
pub mod ledger;
pub mod manifest;
pub mod matrix;
pub mod oracles;
pub mod paths;
pub mod plans;
pub mod recorder;
pub mod report;
pub mod report_page;
pub mod roles;
pub mod runner;
pub mod text;
pub mod whitelist;
