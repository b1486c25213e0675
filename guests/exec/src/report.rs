//! Writes the report that the host reads when the guest is done: header, the operation's own report, payload.

use alloc::string::{String, ToString};
use core::fmt;

use instar_abi::report::{MAX_TEXT_BYTES, REPORT_MAGIC, ReportHeader, error_kind, outcome};
use instar_abi::wire::Wire;

use crate::job::JobError;
use crate::storage::StorageError;

/// The error number of an image that needs what is not supported here.
pub(crate) const ENOTSUP: i32 = 95;
/// The error number of an image whose passphrase is missing or wrong.
pub(crate) const EKEYREJECTED: i32 = 129;

/// Why a job failed, as the host will tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of [`error_kind`].
    pub kind: u32,
    /// Which layer it is about.
    pub layer: u32,
    /// The system's error number behind it, or 0.
    pub errno: i32,
    /// The finding; what the host puts around it depends on `kind`.
    pub text: String,
}

impl Failure {
    /// A failure of the given [`error_kind`], without an error number.
    pub fn new(kind: u32, layer: u32, text: impl fmt::Display) -> Self {
        Self { kind, layer, errno: 0, text: text.to_string() }
    }

    /// The same with the system's error number for it.
    pub fn with_errno(self, errno: i32) -> Self {
        Self { errno, ..self }
    }

    /// A device request failed while `layer` was read or written.
    pub fn storage(layer: u32, error: StorageError) -> Self {
        Self { kind: error_kind::STORAGE, layer, errno: error.errno, text: error.to_string() }
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::new(error_kind::INTERNAL, 0, error)
    }
}

/// Reports a failure: [`fail`] with the fields of `failure`.
pub fn failed(report: &mut [u8], failure: &Failure) {
    fail(report, failure.kind, failure.layer, failure.errno, &failure.text);
}

/// Reports a failure. Text beyond [`MAX_TEXT_BYTES`] is cut at a character's end; a report area that is too small for
/// a header stays untouched, which the host takes for no report.
pub fn fail(report: &mut [u8], kind: u32, layer: u32, errno: i32, text: &str) {
    let mut length = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    let mut padded = [0; MAX_TEXT_BYTES];
    padded[..length].copy_from_slice(&text.as_bytes()[..length]);
    let header = ReportHeader {
        magic: REPORT_MAGIC,
        outcome: outcome::FAILED,
        error_kind: kind,
        error_layer: layer,
        errno,
        text_length_bytes: u32::try_from(length).unwrap_or(0),
        payload_length_bytes: 0,
        text: padded,
    };
    if let Some(area) = report.get_mut(..ReportHeader::SIZE_BYTES) {
        header.put(area);
    }
}

/// As [`failed`], with a payload of what was done before; `T` is the operation's own report, which stays empty. Where the
/// payload does not fit, it is left out.
pub fn failed_with<T: Wire>(report: &mut [u8], failure: &Failure, payload: &[u8]) {
    failed(report, failure);
    let own_end = ReportHeader::SIZE_BYTES + T::SIZE_BYTES;
    let end = own_end.saturating_add(payload.len());
    let Some(area) = report.get_mut(..end) else { return };
    area[ReportHeader::SIZE_BYTES..own_end].fill(0);
    area[own_end..].copy_from_slice(payload);
    let mut header = ReportHeader::get(area);
    header.payload_length_bytes = u32::try_from(payload.len()).unwrap_or(0);
    header.put(area);
}

/// Reports success: the operation's own report, then the payload. What does not fit into the report area becomes a
/// failure of kind [`error_kind::INTERNAL`].
pub fn done<T: Wire>(report: &mut [u8], own: &T, payload: &[u8]) {
    let own_end = ReportHeader::SIZE_BYTES + T::SIZE_BYTES;
    let payload_end = own_end.checked_add(payload.len()).filter(|&end| end <= report.len());
    let (Some(payload_end), Ok(payload_length_bytes)) = (payload_end, u32::try_from(payload.len())) else {
        return fail(report, error_kind::INTERNAL, 0, 0, "the report is too long");
    };
    own.put(&mut report[ReportHeader::SIZE_BYTES..own_end]);
    report[own_end..payload_end].copy_from_slice(payload);
    let header = ReportHeader {
        magic: REPORT_MAGIC,
        outcome: outcome::DONE,
        error_kind: error_kind::NONE,
        error_layer: 0,
        errno: 0,
        text_length_bytes: 0,
        payload_length_bytes,
        text: [0; MAX_TEXT_BYTES],
    };
    header.put(&mut report[..ReportHeader::SIZE_BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use instar_abi::report::RebaseReport;

    const RESULT: RebaseReport = RebaseReport { clusters_copied: 3, bytes_copied: 9 };
    const RESULT_END: usize = ReportHeader::SIZE_BYTES + RebaseReport::SIZE_BYTES;

    #[test]
    fn cut_a_long_text_at_a_character() {
        let mut report = vec![0; ReportHeader::SIZE_BYTES];
        let text = alloc::format!("a{}", "ä".repeat(MAX_TEXT_BYTES));
        fail(&mut report, error_kind::OPEN, 2, 5, &text);
        let header = ReportHeader::get(&report);
        assert_eq!((header.outcome, header.error_kind, header.error_layer, header.errno), (1, error_kind::OPEN, 2, 5));
        assert_eq!(header.text_length_bytes, 1023);
        assert_eq!(&header.text[..1023], &text.as_bytes()[..1023]);
        assert_eq!(header.text[1023], 0);
    }

    #[test]
    fn lay_out_a_success() {
        let mut report = vec![0xff; RESULT_END + 4];
        done(&mut report, &RESULT, b"tail");
        let header = ReportHeader::get(&report);
        assert_eq!((header.magic, header.outcome, header.payload_length_bytes), (REPORT_MAGIC, outcome::DONE, 4));
        assert_eq!(RebaseReport::get(&report[ReportHeader::SIZE_BYTES..]), RESULT);
        assert_eq!(&report[RESULT_END..], b"tail");
    }

    #[test]
    fn a_failure_can_say_what_was_done_before() {
        let mut report = vec![0xff; RESULT_END + 4];
        let failure = Failure::new(error_kind::CORRUPT, 1, "no");
        failed_with::<RebaseReport>(&mut report, &failure, b"tail");
        let header = ReportHeader::get(&report);
        assert_eq!((header.outcome, header.payload_length_bytes, header.text_length_bytes), (outcome::FAILED, 4, 2));
        assert_eq!(&report[RESULT_END..], b"tail");
        failed_with::<RebaseReport>(&mut report, &failure, b"longer");
        assert_eq!(ReportHeader::get(&report).payload_length_bytes, 0);
    }

    #[test]
    fn fail_when_the_payload_does_not_fit() {
        let mut report = vec![0; RESULT_END + 3];
        done(&mut report, &RESULT, b"tail");
        assert_eq!(ReportHeader::get(&report).error_kind, error_kind::INTERNAL);
        let mut no_room = [7; 10];
        done(&mut no_room, &RESULT, b"");
        assert_eq!(no_room, [7; 10]);
    }
}
