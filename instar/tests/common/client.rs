//! What the tests of the library share: the built program, a chain, and codes of errors.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::Path;

use instar::client::Error;
use instar::code::Code;

use crate::common::Folder;
use crate::image::{CLUSTER_BYTES, qcow2};

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_instar");

/// A builder that runs the built program in a folder.
macro_rules! here {
    ($folder:expr, $builder:expr) => {
        $builder.program($crate::client::PROGRAM).current_dir($folder.path())
    };
}
pub(crate) use here;

/// A chain of three: top, middle, base. Each holds the first cluster.
pub(crate) fn chain() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0x11, "", ""));
    folder.file("middle.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    folder.file("top.qcow2", &qcow2(0x33, "middle.qcow2", "qcow2"));
    folder
}

/// What the first cluster of an image made by [`qcow2`] is filled with, where it still is where it was.
pub(crate) fn content(folder: &Folder, name: impl AsRef<Path>) -> u8 {
    fs::read(folder.path().join(name)).expect("an image")[5 * CLUSTER_BYTES]
}

/// The code of a failure that the program told.
#[track_caller]
pub(crate) fn code<R>(result: Result<R, Error>) -> Code {
    result.err().expect("a failure").code().expect("a code")
}
