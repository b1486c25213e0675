//! Commits, rebases, looks at and plans for images from within another program.
//!
//! Each operation has a builder: [`Commit`], [`Rebase`], [`Info`], [`Plan`] and [`Measure`]. A builder takes the options of
//! the command of the same name as typed values; `run` carries it out and gives a typed report or an [`Error`], `start` gives a
//! [`Running`] with progress, `kill` and `wait`.
//!
//! # What runs where
//!
//! An operation is the installed `instar` program, as a process of its own: the process that runs a sandbox gives up, for the
//! rest of its life, everything but the images that it has open, and no other program could go on after that. Nothing of an image
//! is interpreted in the caller's process, which opens none, either: it only reads the program's report, in which names and
//! texts may come from images. Names that are not UTF-8 have U+FFFD in place of each such byte there.
//!
//! The program is the one that the builder's `program` names, else the one that the environment variable `INSTAR` names, else
//! `instar` in `PATH`. It inherits the environment, so that `INSTAR_ALLOW_DIRS` and `INSTAR_SANDBOX` mean what they mean for the
//! program. No shell takes part, and nothing is read from standard input.
//!
//! Two threads read what the program writes; there is no asynchronous runtime. Where the caller ends, the operation goes on.
//!
//! # Names of files
//!
//! The image that an operation is about is a path, whatever its name looks like: one that begins with a hyphen, or that the
//! program would read as `nbd:…` or `json:…`, is that file. Images below it are [`BackingName`]s.
//!
//! # Examples
//!
//! ```no_run
//! use instar::client::{Commit, Error};
//! use instar::code::Code;
//!
//! # fn main() -> Result<(), Error> {
//! match Commit::new("vm/overlay.qcow2").allow_dir("images").verify(true).run() {
//!     Ok(report) => println!("{} received {} bytes", report.backing, report.bytes_committed),
//!     Err(error) if error.code() == Some(Code::ImageInUse) => println!("not now: {error}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```

mod commit;
mod error;
mod image_info;
mod info;
mod plan;
mod planned;
mod progress;
mod rebase;
mod running;
mod settings;
mod specifics;
mod stats;
#[cfg(test)]
mod tests;
mod values;

pub use commit::{Commit, CommitReport};
pub use error::{Error, Failure};
pub use image_info::{Child, ImageInfo, Snapshot};
pub use info::{Info, InfoReport};
pub use plan::{Measure, MeasureReport, Plan, PlanReport};
pub use planned::{Amount, Cell, FileLength, Map, Moves, PlannedFile, PlannedLayer};
pub use progress::{Progress, Updates};
pub use rebase::{Mode, Rebase, RebaseReport};
pub use running::Running;
pub use specifics::{Bitmap, Encryption, File, FormatSpecific, Luks, LuksSlot, Qcow2, Vmdk, VmdkExtent};
pub use stats::{SandboxRun, Stats};
pub use values::{Afterwards, BackingName, Cache, Sandbox, Secret};
