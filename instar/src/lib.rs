//! Merges overlays into their base (`commit`), changes what they are based on (`rebase`), looks at images (`info`) and says what
//! would be done (`plan`): as `qemu-img` does, but with everything that reads or writes image metadata in a sandbox.
//!
//! This library is for programs that do so on their user's behalf: backup tools, schedulers, managers of virtual machines.
//! [`client`] has a builder for each operation, typed reports and typed errors; [`code`] names what can go wrong.
//!
//! ```no_run
//! use instar::client::{Commit, Plan};
//!
//! let commit = Commit::new("vm/overlay.qcow2").allow_dir("images").verify(true);
//! let plan = Plan::commit(&commit).run()?;
//! println!("{} bytes are to be moved", plan.moves.bytes);
//!
//! let report = commit.run()?;
//! println!("{} received {} bytes", report.backing, report.bytes_committed);
//! # Ok::<(), instar::client::Error>(())
//! ```
//!
//! # What runs where
//!
//! Nothing of an image is interpreted in the caller's process, and none is opened there. Each operation is the installed `instar`
//! program, started as a process of its own, because the process that runs a sandbox jails itself for the rest of its life. In
//! that process, too, no byte of an image is interpreted: it opens files, moves opaque bytes and prints; all else happens in a
//! virtual machine without an operating system. So a program that uses this library needs `instar` to be installed beside it
//! ([`client`] says how it is found), and access to `/dev/kvm`.
//!
//! # What is promised
//!
//! [`client`] and [`code`] follow [Semantic Versioning](https://semver.org/spec/v2.0.0.html), and understand every later version
//! of the program with the same major version. All other modules are the program itself, public for its own tests, fuzzers and
//! judges: they change with every version, and nothing is promised of them.

pub mod client;
pub mod code;

// Shown to whoever works on them, but not to the users of the library.
#[cfg_attr(docsrs, doc(hidden))]
pub mod apart;
#[cfg_attr(docsrs, doc(hidden))]
pub mod cli;
#[cfg_attr(docsrs, doc(hidden))]
pub mod devices;
#[cfg_attr(docsrs, doc(hidden))]
pub mod effort;
#[cfg_attr(docsrs, doc(hidden))]
pub mod files;
#[cfg_attr(docsrs, doc(hidden))]
pub mod jail;
#[cfg_attr(docsrs, doc(hidden))]
pub mod program;
#[cfg_attr(docsrs, doc(hidden))]
pub mod series;
#[cfg_attr(docsrs, doc(hidden))]
pub mod session;
#[cfg_attr(docsrs, doc(hidden))]
pub mod text;
#[cfg_attr(docsrs, doc(hidden))]
pub mod vm;

#[cfg(test)]
#[path = "../tests/common/kvm.rs"]
mod kvm_of_tests;

/// The page about the library, whose examples are compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct LibraryPage;
