//! For tests: a sandbox that gives any answer, and layers of files that nobody reads.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use instar_abi::job::format;
use instar_abi::report::{MAX_TEXT_BYTES, REPORT_MAGIC, ReportHeader};

use super::job::Devices;
use super::sandbox::{Answer, OnProgress, Sandbox};
use crate::files::chain::{Layer, Summary};
use crate::files::{Access, LayerKey, Location, Origin, open_operand};
use crate::vm::VmError;

/// Answers every job in the same way.
pub(super) struct Says(pub(super) Answer);

impl Sandbox for Says {
    fn run(
        &mut self,
        _: u32,
        _: &Devices<'_>,
        _: &[u8],
        _: u64,
        progress: Option<OnProgress<'_>>,
    ) -> Result<Answer, VmError> {
        progress.into_iter().for_each(|progress| progress(u64::MAX, 3));
        Ok(self.0.clone())
    }
}

/// An answer with these fields and without a payload.
pub(super) fn answer(
    outcome: u32,
    error_kind: u32,
    error_layer: u32,
    errno: i32,
    text: &[u8],
    operation: &[u8],
) -> Answer {
    let mut padded = [0; MAX_TEXT_BYTES];
    padded[..text.len()].copy_from_slice(text);
    let header = ReportHeader {
        magic: REPORT_MAGIC,
        outcome,
        error_kind,
        error_layer,
        errno,
        text_length_bytes: u32::try_from(text.len()).expect("short"),
        payload_length_bytes: 0,
        text: padded,
    };
    Answer { header, operation: operation.to_vec(), payload: Vec::new() }
}

/// A layer of a chain, as if it were qcow2; its file is empty.
pub(super) fn layer(directory: &Path, name: &str) -> Layer {
    let path = directory.join(name);
    std::fs::write(&path, b"").expect("a file");
    Layer {
        image: open_operand(path.as_os_str().as_bytes(), Access::Look).expect("opens"),
        data: None,
        extents: Vec::new(),
        summary: Summary { format: format::QCOW2, ..Summary::default() },
        given_format: format::QCOW2,
        location: Location { origin: Origin::OverlayDirectory, path: name.as_bytes().to_vec() },
        recorded: None,
        key: LayerKey::default(),
    }
}
